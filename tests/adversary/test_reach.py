"""A registry on the internet leads the mirror to services that only the mirror can reach.

Here 127.0.0.1 plays the internet, and ::1 what is inside.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from aiohttp import ThreadedResolver
from aiohttp.abc import ResolveResult

from mirror.config import Endpoint as EndpointConfig
from mirror.oci.digest import digest_of
from mirror.oci.errors import RegistryError
from mirror.oci.reference import Repository, Tag
from mirror.oci.request import Page
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.registry import Registry
from mirror.sources.registry.sessions import open_sessions
from mirror.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.evil import Evil, redirects, says
from tests.support.tasks import owned_tasks

SCOPE = Scope(Repository("hub", "app"))
BLOB = digest_of(b"secret")
HOSTS = ["[::1]", "internal.test"]


class _Names(ThreadedResolver):
    """Evil's own name server: its name is inside by the time that it is asked."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002 - both
    ) -> list[ResolveResult]:
        address = "::1" if host == "internal.test" else host
        return await super().resolve(address, port, socket.AF_UNSPEC)


class _Internal:
    """A service inside; `reached` counts connections."""

    def __init__(self) -> None:
        self.reached = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached += 1
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n")
        writer.write(b"" if head.startswith(b"HEAD ") else b'{"token":"abc"}')
        await writer.drain()
        writer.close()


@pytest.fixture
async def internal() -> AsyncIterator[_Internal]:
    service = _Internal()
    async with await asyncio.start_server(service.serve, "::1", 0) as server:
        service.port = server.sockets[0].getsockname()[1]
        yield service


@asynccontextmanager
async def _registry(
    url: str, clock: FakeClock, *, private: bool = False
) -> AsyncIterator[Registry]:
    config, label = EndpointConfig(url=url, private_redirects=private), Label("hub", "a")
    metrics = Metrics()
    sessions = open_sessions(lambda address: address == "::1", _Names())
    async with sessions as opened, owned_tasks() as tasks:
        exchange = Exchange(
            config, label, sessions=opened, connect_timeout=5, stall_timeout=5, metrics=metrics
        )
        dice = Random(0)  # noqa: S311 - for jitter
        yield Registry(
            "hub",
            [
                Endpoint(
                    config, label, exchange, tasks=tasks, metrics=metrics, clock=clock, random=dice
                )
            ],
        )


async def _ask_everything(registry: Registry) -> list[str]:
    messages = []
    for question in (
        registry.head_blob(SCOPE, BLOB),
        registry.get_manifest(SCOPE, Tag("1")),
        registry.list_tags(SCOPE, Page()),
        registry.list_referrers(SCOPE, BLOB, Page()),
    ):
        try:
            await question
        except RegistryError as error:
            messages.append(error.message)
    return messages


@pytest.mark.parametrize("host", HOSTS)
async def test_no_redirect_leads_inside(internal: _Internal, clock: FakeClock, host: str) -> None:
    async with Evil() as evil, _registry(evil.url, clock) as registry:
        evil.on("/v2/", redirects(f"http://{host}:{internal.port}/"))
        messages = await _ask_everything(registry)
        evil.on("/v2/", redirects(f"http://{host}:1/"))
        closed = await _ask_everything(registry)
    assert internal.reached == 0
    assert len(messages) == 4
    assert messages == closed  # an open port is told from a closed one by nobody
    assert "private_redirects" in messages[0]


@pytest.mark.parametrize("host", HOSTS)
async def test_no_token_is_asked_for_inside(
    internal: _Internal, clock: FakeClock, host: str
) -> None:
    realm = f'Bearer realm="http://{host}:{internal.port}/token"'.encode()
    async with Evil() as evil, _registry(evil.url, clock) as registry:
        unauthorized = b"HTTP/1.1 401 Who"
        evil.on("/v2/", says(unauthorized, b"WWW-Authenticate: " + realm, b"Content-Length: 0"))
        await _ask_everything(registry)
        assert not any("Bearer abc" in head for head in evil.heads)
    assert internal.reached == 0


async def _push_everything(registry: Registry) -> list[str]:
    """What becomes of each step of an upload that has begun."""
    target = registry.target(SCOPE.repository)
    at = await target.begin()
    assert at is not None

    async def content() -> AsyncIterator[bytes]:
        yield b"secret"

    messages = []
    for step in (
        target.send(at, content(), length=None),
        target.send(at, content(), length=6),
        target.ask(at),
        target.finish(at, BLOB),
        target.finish(at, BLOB, content(), length=6),
    ):
        try:
            await step
        except RegistryError as error:
            messages.append(error.message)
    await target.cancel(at)
    return messages


@pytest.mark.parametrize("leads", ["by Location", "by redirects"])
@pytest.mark.parametrize("host", HOSTS)
async def test_no_upload_leads_inside(
    internal: _Internal, clock: FakeClock, host: str, leads: str
) -> None:
    inside = f"http://{host}:{internal.port}/v2/app/blobs/uploads/1".encode()
    async with Evil() as evil, _registry(evil.url, clock) as registry:
        begun = inside if leads == "by Location" else b"/v2/app/blobs/uploads/1"
        fields = b"Location: " + begun, b"Content-Length: 0"
        evil.on("POST /v2/app/blobs/uploads/", says(b"HTTP/1.1 202 Accepted", *fields))
        evil.on("/v2/app/blobs/uploads/1", redirects(inside.decode()))
        said = await _push_everything(registry)
    assert internal.reached == 0
    assert len(said) == 5


@pytest.mark.parametrize("host", HOSTS)
async def test_the_operator_may_let_a_registry_lead_inside(
    internal: _Internal, clock: FakeClock, host: str
) -> None:
    async with Evil() as evil, _registry(evil.url, clock, private=True) as registry:
        evil.on("/v2/", redirects(f"http://{host}:{internal.port}/"))
        assert await registry.head_blob(SCOPE, BLOB) == 15
    assert internal.reached == 1
