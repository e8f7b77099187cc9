"""A registry's blobs as a source of bytes, with and without a CDN, with and without ranges."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from mirror.aio.slots import Urgency
from mirror.oci.digest import digest_of
from mirror.oci.reference import Repository
from mirror.sources.ports import BlobSource
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from tests.conformance.blob_source import CONTENT, BlobSourceConformance, Has
from tests.support.clock import FakeClock
from tests.support.edge import registry_at
from tests.support.upstream import Cdn, ScriptedRegistry

SCOPE = Scope(Repository("hub", "library/app"))


@pytest.fixture
async def registry(upstream: ScriptedRegistry, clock: FakeClock) -> AsyncIterator[Registry]:
    async with registry_at(upstream.url, clock) as registry:
        yield registry


class TestRegistryBlobs(BlobSourceConformance):
    @pytest.fixture(params=["plain", "cdn", "no ranges"])
    async def has(
        self, request: pytest.FixtureRequest, upstream: ScriptedRegistry, registry: Registry
    ) -> Has:
        if request.param == "cdn":
            upstream.cdn = Cdn()
        if request.param == "no ranges":
            upstream.fault(kind="blob", ignore_range=True)

        def has(content: bytes) -> BlobSource:
            upstream.add_blob(content, "library/app")
            return registry.blobs(SCOPE)

        return has


async def test_sources_of_other_repositories_and_other_authority_are_others(
    registry: Registry,
) -> None:
    mine, anonymous = (registry.blobs(Scope(SCOPE.repository, who)) for who in ("Bearer a", ""))
    elsewhere = registry.blobs(Scope(Repository("hub", "library/other")))
    assert len({registry.blobs(SCOPE), mine, anonymous, elsewhere}) == 4
    assert [source.is_lasting for source in (registry.blobs(SCOPE), mine)] == [True, False]


@pytest.mark.parametrize(
    "fault",
    [
        {"headers": {"Content-Range": "bytes 5-9/100"}},
        {"headers": {"Content-Range": "nonsense"}},
        {"omit": ["Content-Range"]},
    ],
)
async def test_where_a_part_is_not_what_was_asked_for_all_is_asked_for(
    registry: Registry, upstream: ScriptedRegistry, fault: dict[str, Any]
) -> None:
    upstream.add_blob(CONTENT, "library/app")
    upstream.fault(kind="blob", **fault)
    source = registry.blobs(SCOPE)
    async with (
        source.open_blob(digest_of(CONTENT), 10, 20, avoid=None, urgency=Urgency()) as body,
        aclosing(body.chunks) as chunks,
    ):
        received = b"".join([bytes(chunk) async for chunk in chunks])
    assert (body.start, body.is_range) == (10, False)
    assert received == CONTENT[10:]
    assert [asked.headers.get("Range") for asked in upstream.asked("blob")] == ["bytes=10-19", None]
