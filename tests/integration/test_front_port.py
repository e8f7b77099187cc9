"""The port of the front: the mirror itself, and what a worker has of it over a socket."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any

import pytest

from mirror.aio.tasks import owned_tasks
from mirror.app import run
from mirror.config import parse
from mirror.front.ports import Clients, Front, Leases, Pulls, Pushes, Report, Worker
from mirror.front.settings import Settings
from mirror.front.wire.interface import serve
from mirror.front.wire.peer import Peer, proxy
from mirror.front.workers.lender import Lender, OpenBlob, OpenRest
from mirror.front.workers.pool import Pool
from mirror.front.workers.spawn import Kill, Spawn
from mirror.oci.digest import digest_of, parse_digest
from mirror.oci.errors import Denied, ErrorCode, Missing, RegistryError, Unavailable
from mirror.oci.ranges import ByteRange
from mirror.oci.reference import Repository, Tag
from mirror.oci.request import Page
from mirror.oci.token import TokenQuestion
from mirror.pull.answers import HIT, Progress
from mirror.pull.forget import Forgettable, Moved, TagOf
from mirror.telemetry.faults import Faults
from tests.support.auth import BearerAuth
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import document, upstream_at
from tests.support.upstream import ScriptedRegistry

SIZE = 600_000  # bytes: more than what is served from memory
APP = Repository("docker.io", "org/app")


@dataclass
class Hand(Worker):
    """A worker that does nothing by itself."""

    forgotten: "asyncio.Queue[Forgettable]" = field(default_factory=asyncio.Queue)

    async def start(self, settings: Settings, last_good: dict[str, bytes]) -> None:
        self.settings, self.last_good = settings, last_good

    def connect(self, connection: socket, number: int) -> None:
        connection.close()
        self.last_number = number

    def forget(self, what: Forgettable) -> None:
        self.forgotten.put_nowait(what)

    async def report(self) -> Report:
        return Report([], set(), {}, [])

    async def reload(self, settings: Settings) -> list[str]:
        del settings
        return []

    async def drain(self) -> None:
        pass


@dataclass
class Under:
    """What is tested: the port, and what its implementation is made of."""

    front: Front
    pool: Pool
    hand: Hand


class _Nobody:
    """No connections are given here."""

    def note_closed(self, number: int) -> None:
        pass


class Itself:
    """The mirror's own implementation, as it is served to a worker."""

    def __init__(self, mirror: Pulls, pushing: Pushes, leases: Leases) -> None:
        clients: Clients = _Nobody()
        for port, implementation in (
            (Pulls, mirror), (Pushes, pushing), (Leases, leases), (Clients, clients)
        ):  # fmt: skip
            for name, (_, method) in serve(port, implementation).items():
                setattr(self, name, method)


Start = Callable[..., Awaitable[Under]]


@pytest.fixture(params=["itself", "over a socket"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def start(
    monkeypatch: pytest.MonkeyPatch,
    upstream: ScriptedRegistry,
    tmp_path: Path,
    clock: FakeClock,
    way: str,
) -> AsyncIterator[Start]:
    made: list[tuple[Pool, Front]] = []
    hand = Hand()
    proxies: list[Front] = []
    stop = asyncio.Event()

    class Seen(Pool):
        def __init__(
            self,
            config: Any,
            mirror: Pulls,
            open_blob: OpenBlob,
            open_rest: OpenRest,
            **others: Any,
        ) -> None:
            super().__init__(config, mirror, open_blob, open_rest, **others)
            itself: Any = Itself(mirror, others["pushing"], Lender(open_blob, open_rest))
            made.append((self, itself))

    @asynccontextmanager
    async def spawn(connection: socket) -> AsyncIterator[Kill]:
        faults = Faults()
        async with owned_tasks(faults.note) as tasks:
            peer = Peer(connection, serve(Worker, hand), tasks=tasks, note_fault=faults.note)
            proxies.append(proxy(Front, peer))
            try:
                yield peer.close
            finally:
                peer.close()

    async def serving(settings: dict[str, Any], started: "asyncio.Future[None]") -> None:
        spawning: Spawn = spawn
        async with run(parse(settings), clock=clock, spawn=spawning):
            started.set_result(None)
            await stop.wait()

    monkeypatch.setattr("mirror.app.Pool", Seen)
    async with asyncio.TaskGroup() as tasks:

        async def start(upstreams: Any = None, **overrides: Any) -> Under:
            settings = document(
                upstreams or {"docker.io": upstream_at(upstream.url)},
                store_root=tmp_path / "store",
                **({"server": {"workers": 1}} | overrides),
            )
            started = asyncio.get_running_loop().create_future()
            tasks.create_task(serving(settings, started))
            await started
            [(pool, itself)] = made
            return Under(itself if way == "itself" else proxies[0], pool, hand)

        yield start
        stop.set()


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


async def read_all(front: Front, app: Image) -> bytes:
    """A blob by its lease, to the end."""
    async with front.open_blob(APP, parse_digest(app.layers[0]), None, ()) as lease:
        assert lease.file is not None
        progress = lease.progress
        assert progress is not None
        while not progress.is_proved:
            progress = await front.follow(lease.number, progress)
        return os.pread(lease.file.fileno(), progress.written, 0)


async def test_a_manifest_is_had_by_tag_and_by_digest(start: Start, app: Image) -> None:
    front = (await start()).front
    by_tag = await front.get_manifest(APP, Tag("1"), None)
    by_digest = await front.get_manifest(APP, parse_digest(app.digest), None)
    assert by_tag.manifest == by_digest.manifest
    assert by_tag.manifest.content == app.manifest
    assert by_digest.outcome == HIT
    front.note_served(APP, by_tag.manifest.digest, None)


async def test_what_there_is_not_is_missing(start: Start, app: Image) -> None:
    front = (await start()).front
    with pytest.raises(Missing) as missing:
        await front.get_manifest(APP, Tag("2"), None)
    assert missing.value.code is ErrorCode.MANIFEST_UNKNOWN
    with pytest.raises(Missing):
        async with front.open_blob(APP, digest_of(b"never"), None, ()):
            pass
    with pytest.raises(Missing):
        await front.head_blob(APP, digest_of(b"never"), None)


async def test_a_repository_that_is_not_served_is_denied_whatever_a_worker_asks(
    start: Start, app: Image, upstream: ScriptedRegistry
) -> None:
    hub = upstream_at(upstream.url) | {"deny": ["org/app"]}
    front = (await start({"docker.io": hub})).front
    digest = parse_digest(app.layers[0])
    for asking in (
        front.get_manifest(APP, Tag("1"), None),
        front.head_blob(APP, digest, None),
        front.list_tags(APP, Page(), None),
        front.list_referrers(APP, digest, None, Page(), None),
        front.can_serve(APP, digest, None),
    ):
        with pytest.raises(Denied):
            await asking
    with pytest.raises(Denied):
        async with front.open_blob(APP, digest, None, ()):
            pass
    front.note_served(APP, digest, None)
    assert not upstream.requests


async def test_a_registry_that_is_not_configured_is_unknown(start: Start, app: Image) -> None:
    """By the word of the process that decides, whatever a worker asks."""
    front = (await start()).front
    elsewhere = Repository("internal.example", "org/app")
    digest = parse_digest(app.layers[0])
    for asking in (
        front.get_manifest(elsewhere, Tag("1"), None),
        front.head_blob(elsewhere, digest, None),
        front.list_tags(elsewhere, Page(), None),
        front.list_referrers(elsewhere, digest, None, Page(), None),
        front.check_login(elsewhere.namespace, None),
        front.ask_token_server(elsewhere.namespace, TokenQuestion("0" * 16, ""), None),
        front.ask_token_server("docker.io", TokenQuestion("0" * 16, ""), None),
    ):
        with pytest.raises(RegistryError) as refusal:
            await asking
        assert refusal.value.code is ErrorCode.NAME_UNKNOWN


async def test_whether_a_clients_own_authorization_counts_is_not_for_the_worker_to_say(
    start: Start, upstream: ScriptedRegistry, app: Image, tmp_path: Path
) -> None:
    """The mirror's own authority would be enough here; it is not what counts."""
    password = tmp_path / "password"
    password.write_text("secret", encoding="utf-8")
    upstream.auth = BearerAuth(
        users={"anna": "secret"}, private={"org/app": {"anna"}}, realm=f"{upstream.url}/token"
    )
    own = upstream_at(upstream.url, username="anna", password_file=str(password))
    settings = {**own, "access": "client"}
    front = (await start({"docker.io": settings})).front
    with pytest.raises(Denied):
        await front.get_manifest(APP, Tag("1"), None)


async def test_a_blob_grows_in_the_hands_of_whoever_reads_it(
    start: Start, upstream: ScriptedRegistry, app: Image
) -> None:
    front = (await start()).front
    digest = parse_digest(app.layers[0])
    assert (await front.head_blob(APP, digest, None)).size == SIZE
    gate = upstream.hold(app.layers[0], after=SIZE // 2)
    async with front.open_blob(APP, digest, None, ()) as one:
        async with front.open_blob(APP, digest, None, ()) as other:
            assert one.number == other.number != 0
            gate.open()
        assert await read_all(front, app) == app.blobs[app.layers[0]]
    async with front.open_blob(APP, digest, None, ()) as lease:
        assert (lease.size, lease.number) == (SIZE, 0)
        progress = lease.progress
        assert progress is not None
        assert (progress.written, progress.size, progress.is_proved) == (SIZE, SIZE, True)


async def test_a_part_far_ahead_is_reached_before_what_is_between(
    start: Start, upstream: ScriptedRegistry
) -> None:
    large = upstream.add(image(random_layer(8_000_000, seed=2)), "org/app", "2")
    front = (await start(fill={"whole": "never"})).front
    await front.get_manifest(APP, Tag("2"), None)
    digest, content = parse_digest(large.layers[0]), large.blobs[large.layers[0]]
    gate = upstream.hold(large.layers[0], after=500_000)
    wanted = (ByteRange(suffix=100), ByteRange(5_000_000, 5_099_999))
    async with front.open_blob(APP, digest, None, wanted) as lease:
        assert (lease.size, lease.progress) == (8_000_000, Progress(0, 8_000_000, is_proved=False))
        assert lease.file is not None
        for begin, end in ((7_999_900, 8_000_000), (5_000_000, 5_100_000), (6_000_000, 6_010_000)):
            position = begin
            while position < end:
                position = await front.reach(lease.number, position, end)
            assert os.pread(lease.file.fileno(), end - begin, begin) == content[begin:end]
    gate.open()
    assert upstream.bytes_sent(large.layers[0]) < 200_000


async def test_what_is_not_kept_is_streamed(start: Start, app: Image) -> None:
    front = (await start(store={"max_size": "1 B", "min_free": "0 B"})).front
    async with front.open_blob(APP, parse_digest(app.layers[0]), None, ()) as lease:
        received = b""
        while (chunk := await front.next_chunk(lease.number, 0, None)) is not None:
            received += chunk
    assert received == app.blobs[app.layers[0]]


async def test_the_rest_of_what_the_disk_has_cut_off_is_streamed_from_wherever_it_is(
    start: Start, app: Image
) -> None:
    front = (await start()).front
    async with front.open_rest(APP, parse_digest(app.layers[0]), None) as lease:
        received = b""
        while (chunk := await front.next_chunk(lease.number, 1000, SIZE)) is not None:
            received += chunk
    assert received == app.blobs[app.layers[0]][1000:]


async def test_what_nobody_has_a_lease_of_any_more_is_unavailable(start: Start) -> None:
    front = (await start()).front
    with pytest.raises(Unavailable):
        await front.follow(7, Progress(0, None, is_proved=False))
    with pytest.raises(Unavailable):
        await front.next_chunk(7, 0, None)
    with pytest.raises(Unavailable):
        await front.reach(7, 0, 1)


async def test_what_there_is_is_listed(start: Start, app: Image) -> None:
    front = (await start()).front
    await front.get_manifest(APP, Tag("1"), None)
    assert (await front.list_tags(APP, Page(), None)).content == b'["1"]'
    assert await front.list_repositories(Page()) == (["docker.io/org/app"], None)
    referrers = await front.list_referrers(APP, parse_digest(app.digest), None, Page(), None)
    assert b"manifests" in referrers.content


async def test_workers_are_told_what_to_forget(start: Start) -> None:
    under = await start()
    for what in (TagOf(APP, Tag("1")), Moved(APP, Tag("1")), APP, digest_of(b"damaged")):
        under.pool.forget(what)
        assert await under.hand.forgotten.get() == what


async def test_a_worker_is_told_of_no_credentials(
    start: Start, upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    password = tmp_path / "password-of-upstream"
    password.write_text("secret", encoding="utf-8")
    settings = upstream_at(upstream.url, username="robot", password_file=str(password))
    under = await start({"docker.io": settings})
    told = repr(under.hand.settings)
    assert "docker.io" in told
    for secret in ("robot", "password-of-upstream", upstream.url):
        assert secret not in told
