"""The operators' port: metrics, health, the API and the page."""

from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mirror.control.api.operations import Operation
from mirror.control.api.routes import add_api
from mirror.control.api.verifying import Verify
from mirror.control.bundles import Depot
from mirror.control.guard import Guard
from mirror.control.overview import Overview
from mirror.control.page.routes import add_page
from mirror.control.page.views import Views
from mirror.control.past import Past
from mirror.control.problems import Refusal, problem
from mirror.control.watching import Watching
from mirror.telemetry.metrics import Metrics


def make_admin(
    metrics: Metrics,
    overview: Overview,
    views: Views,
    operations: Sequence[Operation],
    guard: Guard,
    *,
    past: Past,
    verify: Verify,
    depot: Depot,
    gather: Callable[[], Awaitable[None]],
    find_problem: Callable[[], Awaitable[str | None]],
) -> web.Application:
    """The admin application.

    `verify` has blobs hashed, `depot` is what bundles are made of and taken into. `gather` brings
    the counts up to date; `find_problem` says why the mirror cannot serve now.
    """

    async def show_metrics(request: web.Request) -> web.Response:
        try:
            guard.require_known_host(request)
        except Refusal as refusal:
            return web.Response(status=refusal.status, text=f"{refusal.detail}\n")
        await gather()
        return web.Response(
            body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def show_status(request: web.Request) -> web.Response:
        try:
            guard.require_known_host(request)
        except Refusal as refusal:
            return problem(refusal)
        body = msgspec.json.format(msgspec.json.encode(await overview.health()), indent=2)
        return web.Response(body=body + b"\n", content_type="application/json")

    async def show_health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def show_readiness(_: web.Request) -> web.Response:
        found = await find_problem()
        if found is None:
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"not ready: {found}\n")

    application = web.Application()
    application.add_routes(
        [
            web.get("/metrics", show_metrics),
            web.get("/healthz", show_health),
            web.get("/readyz", show_readiness),
            web.get("/status", show_status),
        ]
    )
    watching = Watching(guard)
    add_page(application, views, guard, watching)
    add_api(
        application, operations, guard, watching, past,
        verify=verify, depot=depot, note_fault=metrics.faults.note,
    )  # fmt: skip
    return application
