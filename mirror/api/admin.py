"""The operators' port: metrics and health."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mirror.telemetry.metrics import Metrics


def make_admin(
    metrics: Metrics,
    *,
    gather: Callable[[], Awaitable[None]],
    is_ready: Callable[[], Awaitable[bool]],
) -> web.Application:
    """The admin application.

    `gather` brings the counts up to date; `is_ready`: whether the mirror can serve now.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        await gather()
        return web.Response(
            body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def show_health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def show_readiness(_: web.Request) -> web.Response:
        if await is_ready():
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready: store.root cannot be written to\n")

    application = web.Application()
    application.add_routes(
        [
            web.get("/metrics", show_metrics),
            web.get("/healthz", show_health),
            web.get("/readyz", show_readiness),
        ]
    )
    return application
