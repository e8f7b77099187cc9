"""Whatever a worker that was taken over sends, it costs that worker its channel, and no more."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from hypothesis import given, settings, strategies as st

from mirror.aio.sealed import MOST_AT_ONCE, Bulk
from mirror.aio.tasks import owned_tasks
from mirror.front.ports import Front, Lease
from mirror.front.wire.channel import make_pair
from mirror.front.wire.interface import interface_of, serve
from mirror.front.wire.peer import Peer
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, Missing, RegistryError
from mirror.oci.ranges import MOST_RANGES
from mirror.oci.reference import Reference, Repository, Tag, parse_reference, parse_repository
from mirror.oci.request import Page
from mirror.pull.answers import MISS
from mirror.push.answers import MOST_PATIENCE, Loan
from mirror.telemetry.faults import Faults

METHODS = sorted(interface_of(Front))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(),
    st.binary(),
    st.sampled_from(["digest", "tag", "repository", "sha256", "a" * 64, "../x", "docker.io"]),
)
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=5), max_leaves=20)
CALLS = st.tuples(
    st.sampled_from([0, 1, 2, 3]),
    st.integers(-1, 3) | st.just(2**64 - 1),
    st.sampled_from(METHODS) | st.text(),
    TREES,
    st.sampled_from(["", "4f2a-1", "\n", "x" * 100]) | st.text(),
)
DIGESTS = st.sampled_from(
    [
        ("digest", "sha256", "a" * 64),
        ("digest", "sha256", "../" * 21 + "x"),
        ("digest", "sha256", "A" * 64),
        ("digest", "sha256", "a" * 63 + "\n"),
        ("digest", "sha256", "a" * 64 + "\n"),
        ("digest", "sha512", "a" * 64),
        ("digest", "sha512", "../" * 42 + "xy"),
        ("digest", "md5", "a" * 64),
    ]
)
TAGS = st.sampled_from([("tag", name) for name in ("1", "../x", "x\n", "", "x" * 129)])
REPOSITORIES = st.sampled_from(
    [
        ("repository", "docker.io", name)
        for name in ("../etc", "org//app", "Org", "org/app\n", "a" * 256)
    ]
    + [("repository", "x" * 1000, "org/app")]
) | st.just(("repository", "docker.io", "org/app"))
NEARLY = st.tuples(
    st.just(0),
    st.integers(1, 5),
    st.sampled_from(["get_manifest", "head_blob", "open_blob", "open_rest"]),
    st.tuples(REPOSITORIES, DIGESTS | TAGS, st.none() | st.sampled_from(["x\r\ny: z", 7])),
    st.just(""),
)
QUESTIONS = st.tuples(
    st.sampled_from(["0123456789abcdef", "0" * 15, "../etc", "0123456789abcde\n"]),
    st.sampled_from(["", "scope=a", "a b", "a#b", "a\r\nb", "a" * 9000]),
    st.none() | st.sampled_from([b"", b"a" * 2**16, b"a" * (2**16 + 1)]),
)
NEARLY_TOKENS = st.tuples(
    st.just(0),
    st.integers(1, 5),
    st.just("ask_token_server"),
    st.tuples(
        st.sampled_from(["docker.io", "x" * 1000]),
        QUESTIONS,
        st.none() | st.sampled_from(["x\r\ny: z", "Basic YTpi", 7]),
    ),
    st.just(""),
)
PACKETS = st.one_of(
    st.binary(max_size=200),
    (NEARLY | NEARLY_TOKENS).map(msgspec.msgpack.encode),
    (CALLS | TREES).map(msgspec.msgpack.encode),
)


def count_open() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


class Door:
    """Sees to it that nothing comes in that is not by the grammar."""

    def _check(self, repository: Repository, reference: Reference, authorization: Any) -> None:
        try:
            parse_repository(repository.name)
            assert parse_reference(str(reference)) == reference
        except RegistryError as error:  # expected of an answer, and no fault; here it is one
            raise AssertionError(f"{repository} {reference}") from error
        assert type(repository.namespace) is str
        assert len(repository.namespace) < 300
        assert type(reference) in {Tag, Digest}
        assert authorization is None or authorization.isprintable() or not authorization

    async def get_manifest(self, *asked: Any) -> None:
        self._check(*asked)
        raise Missing(ErrorCode.MANIFEST_UNKNOWN, "not here")

    head_blob = can_serve = get_manifest

    @asynccontextmanager
    async def open_blob(self, *asked: Any) -> AsyncIterator[Lease]:
        *question, ranges = asked
        self._check(*question)
        assert len(ranges) <= MOST_RANGES
        for one in ranges:
            assert all(at is None or at >= 0 for at in (one.first, one.last, one.suffix))
        yield Lease(None, MISS)

    open_rest = open_blob

    def note_served(self, *asked: Any) -> None:
        self._check(*asked)

    def note_closed(self, number: int) -> None:
        assert 0 <= number < 2**53

    async def list_tags(self, repository: Repository, page: Page, authorization: Any) -> None:
        assert page.n is None or 0 <= page.n < 10**9
        await self.get_manifest(repository, Tag("1"), authorization)

    async def list_referrers(
        self, repository: Repository, digest: Digest, kind: Any, page: Page, authorization: Any
    ) -> None:
        assert kind is None or type(kind) is str
        assert type(page) is Page
        await self.get_manifest(repository, digest, authorization)

    async def check_login(self, upstream: str, authorization: Any) -> None:
        assert type(upstream) is str
        assert len(upstream) < 300
        assert authorization is None or authorization.isprintable() or not authorization

    async def ask_token_server(self, upstream: str, question: Any, authorization: Any) -> None:
        await self.check_login(upstream, authorization)
        assert len(question.server) == 16
        assert question.server.isalnum()
        assert question.query.isprintable()
        assert not {" ", "#"} & {*question.query}
        assert question.form is None or len(question.form) <= 2**16
        raise Missing(ErrorCode.NAME_UNKNOWN, "not here")

    async def list_repositories(self, page: Page) -> tuple[list[str], None]:
        assert type(page) is Page
        return [], None

    async def find_pushed_blob(self, *asked: Any) -> None:
        await self.get_manifest(*asked)

    async def begin_upload(
        self, repository: Repository, mount: Any, source: Any, authorization: Any
    ) -> None:
        assert mount is None or type(mount) is Digest
        await self.get_manifest(source or repository, mount or Tag("1"), authorization)

    async def get_upload(self, repository: Repository, identity: str, authorization: Any) -> None:
        assert len(identity) == 32
        assert identity.isalnum()
        await self.get_manifest(repository, Tag("1"), authorization)

    cancel_upload = get_upload

    @asynccontextmanager
    async def open_upload(self, *asked: Any) -> AsyncIterator[None]:
        await self.get_upload(*asked)
        yield None

    async def write_upload(
        self, repository: Repository, identity: str, offset: int, piece: bytes
    ) -> None:
        assert 0 <= offset < 2**63
        assert len(piece) <= 2**18
        await self.get_upload(repository, identity, None)

    async def take_upload(
        self, repository: Repository, identity: str, offset: int, begun: Bulk, rest: Loan
    ) -> int:
        with rest.connection:
            assert 0 <= offset < 2**63
            assert begun.size <= MOST_AT_ONCE
            assert rest.length >= 0
            assert 0 <= rest.patience <= MOST_PATIENCE
            await self.get_upload(repository, identity, None)
        return 0

    async def finish_upload(self, repository: Repository, identity: str, digest: Digest) -> None:
        assert type(digest) is Digest
        await self.get_upload(repository, identity, None)

    async def push_manifest(
        self, repository: Repository, reference: Any, kind: str, content: bytes, who: Any
    ) -> None:
        assert kind.isprintable()
        assert len(content) <= 4 * 2**20
        await self.get_manifest(repository, reference, who)

    async def follow(self, number: int, seen: Any) -> Any:
        assert 0 <= number < 2**53
        return seen

    async def reach(self, number: int, position: int, stop: int) -> int:
        assert 0 <= number < 2**53
        assert 0 <= position < 2**63
        assert 0 <= stop < 2**63
        return position

    async def next_chunk(self, number: int, start: int, stop: int | None) -> None:
        assert number >= 0
        assert start >= 0
        assert stop is None or stop >= 0


@settings(max_examples=300, deadline=None)
@given(packets=st.lists(PACKETS, min_size=1, max_size=5), with_file=st.booleans())
def test_what_is_sent_is_by_the_grammar_or_ends_the_channel(
    packets: list[bytes], *, with_file: bool
) -> None:
    async def play() -> None:
        faults = Faults()
        ours, theirs = make_pair()
        before = count_open()
        async with owned_tasks(faults.note) as tasks:
            peer = Peer(theirs, serve(Front, Door()), tasks=tasks, note_fault=faults.note)
            with ours, FileIO(os.devnull) as file:
                for packet in filter(None, packets):
                    try:
                        socket.send_fds(ours, [packet], [file.fileno()] if with_file else [])
                    except OSError:
                        break  # it has hung up already
                for _ in range(10):
                    await asyncio.sleep(0)
            async with asyncio.timeout(10):
                await peer.lost.wait()
        assert faults.counts == {}
        assert count_open() == before - 2

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
