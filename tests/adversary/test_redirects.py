"""A registry redirects to a service of its choice, to have the mirror fetch what it cannot.

What addresses it may name is in test_reach.py; here they are ones that it may.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from mirror.oci.digest import digest_of
from mirror.oci.errors import RegistryError, Unavailable
from mirror.oci.reference import Repository, Tag
from mirror.oci.request import Page
from mirror.sources.registry.endpoint import Scope
from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.edge import registry_at
from tests.support.evil import Ask, Evil, redirects, says, tells
from tests.support.images import image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import Cdn, ScriptedRegistry

SECRET = b'{"database-password": "correct horse battery staple"}'
BLOB = digest_of(b"what evil says is there")
SCOPE = Scope(Repository("hub", "app"))


@pytest.fixture
async def evil() -> AsyncIterator[Evil]:
    async with Evil() as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[Evil]:
    """Whose content evil is after; to it, `localhost` is another site."""
    async with Evil() as running:
        yield running


async def chunked(ask: Ask) -> None:
    ask.ends = True
    await ask.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await ask.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(SECRET), SECRET))


async def _everything_sent(mirror: InnerMirror) -> bytes:
    """All that a client is sent for the blob, also if the connection is aborted in the middle."""
    host, _, port = mirror.host.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET /v2/app/blobs/{BLOB} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    sent = b""
    with suppress(ConnectionError):
        while piece := await reader.read(2**16):
            sent += piece
    writer.transport.abort()
    return sent


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "passed through"])
@pytest.mark.parametrize("behaviour", [tells(SECRET), chunked], ids=["length", "chunked"])
async def test_no_byte_of_a_short_answer_from_elsewhere_leaves_before_its_proof(
    start_mirror: StartMirror, evil: Evil, other: Evil, *, is_kept: bool, behaviour: object
) -> None:
    evil.on("blobs/", redirects(f"http://localhost:{other.port}/secret"))
    other.on("/secret", behaviour)  # type: ignore[arg-type]  # parametrized
    store = {} if is_kept else {"max_size": "20 B"}
    mirror = await start_mirror({"hub": upstream_at(evil.url)}, store=store)
    for _ in range(2):
        sent = await _everything_sent(mirror)
        assert b"password" not in sent
        assert f"Content-Length: {len(SECRET)}\r\n".encode() not in sent
    assert other.asked


@pytest.mark.parametrize("size", [40_000, 65_536, 65_537, 300_000])
@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "passed through"])
async def test_what_is_right_comes_from_elsewhere_as_ever(
    start_mirror: StartMirror, upstream: ScriptedRegistry, size: int, *, is_kept: bool
) -> None:
    app = upstream.add(image(random_layer(size, seed=3)), "app", "1")
    [layer] = app.layers
    upstream.cdn = Cdn(host="localhost")
    store = {} if is_kept else {"max_size": "20 B"}
    mirror = await start_mirror({"hub": upstream_at(upstream.url)}, store=store)
    assert (await mirror.client.get(f"/v2/app/blobs/{layer}")).body == app.blobs[layer]


async def test_lists_come_from_the_registrys_own_site(
    evil: Evil, other: Evil, clock: FakeClock
) -> None:
    evil.on("/v2/", redirects(f"http://localhost:{other.port}/api"))
    other.on("/api", tells(json.dumps({"tags": ["secret"], "manifests": []}).encode()))
    async with registry_at(evil.url, clock) as registry:
        for question in (
            registry.list_tags(SCOPE, Page()),
            registry.list_referrers(SCOPE, BLOB, Page()),
        ):
            with pytest.raises(Unavailable, match="another site"):
                await question
    assert not other.asked


async def test_lists_may_come_from_the_registry_that_a_vanity_domain_leads_to(
    evil: Evil, upstream: ScriptedRegistry, clock: FakeClock
) -> None:
    upstream.add(image(random_layer(10, seed=1)), "org/app", "1")
    there = f"http://localhost:{upstream.port}/v2/org/app"
    evil.on("/v2/app/tags", redirects(f"{there}/tags/list?n=5"))
    evil.on("/v2/app/referrers", redirects(f"{there}/referrers/{BLOB}"))
    async with registry_at(evil.url, clock) as registry:
        assert json.loads((await registry.list_tags(SCOPE, Page())).content) == ["1"]
        assert b"manifests" in (await registry.list_referrers(SCOPE, BLOB, Page())).content


async def test_a_token_server_redirects_to_none_elsewhere(
    evil: Evil, other: Evil, clock: FakeClock
) -> None:
    """What another's token server gives to the mirror is not for evil."""
    realm = f'WWW-Authenticate: Bearer realm="{evil.url}/token"'.encode()
    evil.on("/v2/", says(b"HTTP/1.1 401 Who", realm, b"Content-Length: 0"))
    evil.on("/token", redirects(f"http://localhost:{other.port}/token"))
    other.on("/token", tells(b'{"token": "of-another"}'))
    async with registry_at(evil.url, clock) as registry:
        with pytest.raises(RegistryError):
            await registry.get_manifest(SCOPE, Tag("1"))
    assert not other.asked
    assert not any("of-another" in head for head in evil.heads)
