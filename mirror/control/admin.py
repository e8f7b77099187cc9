"""The operators' port: metrics and health."""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mirror.telemetry.metrics import Metrics

_STRANGE = (
    "metrics are told only under a known name: add this Host to server.admin_hosts,"
    " or ask by address\n"
)


def is_known(host: str, names: Collection[str]) -> bool:
    """Whether a `Host` field names this mirror as an operator would.

    A web page can have a browser ask by any public name that it has point here (DNS rebinding),
    but not by an address, and not by a name without a dot, which only a network's own resolver
    knows.
    """
    name = host.lower()
    if name.rpartition(":")[2].isdecimal():
        name = name.rpartition(":")[0]
    name = name.rstrip(".")
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return "." not in name or name in names or name == socket.gethostname().lower()
    return True


def make_admin(
    metrics: Metrics,
    *,
    gather: Callable[[], Awaitable[None]],
    find_problem: Callable[[], Awaitable[str | None]],
    hosts: Collection[str] = (),
) -> web.Application:
    """The admin application.

    `gather` brings the counts up to date; `find_problem` says why the mirror cannot serve now.
    `hosts` are the names by which metrics are asked for, beside those that `is_known` knows itself.
    """

    async def show_metrics(request: web.Request) -> web.Response:
        if not is_known(request.headers.get("Host", ""), hosts):
            return web.Response(status=HTTPStatus.MISDIRECTED_REQUEST, text=_STRANGE)
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
