"""The operators' port: metrics, health, and what they want done."""

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mirror.control.api import Verify, list_routes
from mirror.telemetry.metrics import Metrics

_STRANGE = (
    "this port answers only under a known name: add this Host to server.admin_hosts,"
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
    verify: Verify,
    hosts: Collection[str] = (),
) -> web.Application:
    """The admin application.

    `gather` brings the counts up to date; `find_problem` says why the mirror cannot serve now.
    `verify` has blobs hashed. `hosts` are the names by which the port is asked, beside those that
    `is_known` knows itself.
    """

    def require_known(request: web.Request) -> None:
        if not is_known(request.headers.get("Host", ""), hosts):
            raise web.HTTPMisdirectedRequest(text=_STRANGE)

    async def show_metrics(request: web.Request) -> web.Response:
        require_known(request)
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
            *list_routes(verify, require_known),
        ]
    )
    return application
