"""Whether a repository may be served bytes that are at hand."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mirror.aio.single_flight import SingleFlight
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import digest_of
from mirror.oci.manifest import OCI_MANIFEST, Manifest, References
from mirror.oci.reference import Repository
from mirror.pull.links import Links, Verdict, decide
from mirror.pull.memory import Memory
from mirror.records.ports import Link
from mirror.records.sqlite import SqliteRecords
from tests.support.tasks import owned_tasks

HUB, GHCR, PRIVATE = "docker.io", "ghcr.io", "private.example"
APP = Repository(HUB, "library/app")
LAYER = digest_of(b"layer")

NAMED = Link(5, is_confirmed=False, is_sent=False)
CONFIRMED = Link(5, is_confirmed=True, is_sent=False)
SERVE, CONFIRM, FETCH = Verdict.SERVE, Verdict.CONFIRM, Verdict.FETCH


@pytest.mark.parametrize(
    ("link", "senders", "verdict"),
    [
        (None, {HUB}, CONFIRM),
        (NAMED, {HUB}, SERVE),
        (CONFIRMED, {HUB}, SERVE),
        (NAMED, {HUB, PRIVATE}, SERVE),
        (None, {GHCR}, CONFIRM),
        (NAMED, {GHCR}, CONFIRM),
        (CONFIRMED, {GHCR}, SERVE),
        (NAMED, {GHCR, PRIVATE}, CONFIRM),
        (CONFIRMED, {GHCR, PRIVATE}, SERVE),
        (None, {PRIVATE}, FETCH),
        (NAMED, {PRIVATE}, FETCH),
        (CONFIRMED, {PRIVATE}, FETCH),
        (None, set(), CONFIRM),
        (NAMED, set(), CONFIRM),
        (CONFIRMED, set(), SERVE),
    ],
)
def test_a_manifest_unlocks_only_what_the_same_upstream_has_sent(
    link: Link | None, senders: set[str], verdict: Verdict
) -> None:
    assert decide(link, HUB, senders, {PRIVATE}) is verdict


def test_a_private_upstream_has_what_it_has_sent_itself() -> None:
    assert decide(CONFIRMED, PRIVATE, {PRIVATE}, {PRIVATE}) is SERVE
    assert decide(NAMED, PRIVATE, {PRIVATE}, {PRIVATE}) is CONFIRM  # perhaps for somebody else
    assert decide(CONFIRMED, "other.example", {PRIVATE}, {PRIVATE, "other.example"}) is FETCH


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Links]:
    """Links with a memory of their own, as after a start; no upstream can be asked."""
    async with AsyncExitStack() as stack:
        records = await stack.enter_async_context(SqliteRecords.open(path, clock=lambda: 0.0))
        tasks = await stack.enter_async_context(owned_tasks())
        memory = Memory(10_000, missing_for=10, clock=lambda: 0.0)
        yield Links(records, memory, {}, SingleFlight(tasks), private=frozenset({PRIVATE}))


async def judged(links: Links) -> Verdict:
    return await links.judge(APP, LAYER, await links.find(APP, LAYER))


def manifest(number: int) -> tuple[Manifest, References]:
    content = b"manifest %d" % number
    blob = Descriptor("a/b", LAYER, 5)
    return Manifest(digest_of(content), OCI_MANIFEST, content), References(blobs=(blob,))


async def test_a_layer_is_served_once_the_same_upstream_has_sent_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "records") as links:
        await links.record_manifest(APP, *manifest(1), is_sent=True)
        assert await judged(links) is CONFIRM
        await links.record_sent(GHCR, LAYER)
        assert await judged(links) is CONFIRM
        await links.record_sent(HUB, LAYER)
        assert await judged(links) is SERVE
    async with opened(tmp_path / "records") as links:
        assert await judged(links) is SERVE


async def test_what_becomes_private_is_private_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "records") as links:
        await links.record(APP, LAYER, 5)
        assert await judged(links) is SERVE
        await links.record_sent(PRIVATE, LAYER)
        assert await judged(links) is FETCH
        await links.record_sent(GHCR, LAYER)
        assert await judged(links) is SERVE


async def test_a_manifest_takes_nothing_from_what_upstream_has_confirmed(tmp_path: Path) -> None:
    async with opened(tmp_path / "records") as links:
        await links.record(APP, LAYER, 5)
    async with opened(tmp_path / "records") as links:
        await links.record_manifest(APP, *manifest(1), is_sent=True)
        assert await judged(links) is SERVE
