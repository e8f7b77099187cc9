"""The operators' port: metrics and health."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mirror.telemetry.metrics import Metrics


def make_admin(
    metrics: Metrics,
    *,
    gather: Callable[[], Awaitable[None]],
    find_problem: Callable[[], Awaitable[str | None]],
) -> web.Application:
    """The admin application.

    `gather` brings the counts up to date; `find_problem` says why the mirror cannot serve now.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        await gather()
        return web.Response(
            body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def show_health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def show_readiness(_: web.Request) -> web.Response:
        problem = await find_problem()
        if problem is None:
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"not ready: {problem}\n")

    application = web.Application()
    application.add_routes(
        [
            web.get("/metrics", show_metrics),
            web.get("/healthz", show_health),
            web.get("/readyz", show_readiness),
        ]
    )
    return application
