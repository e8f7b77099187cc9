"""What every implementation of `mirror.sources.ports.BlobSource` must do.

class TestSomeSource(BlobSourceConformance):
    @pytest.fixture
    async def has(self) -> AsyncIterator[Has]: ...
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing

import pytest

from mirror.aio.slots import Urgency
from mirror.oci.digest import digest_of
from mirror.oci.errors import Missing
from mirror.sources.ports import BlobSource, Body
from tests.support.images import random_bytes

Has = Callable[[bytes], BlobSource]
"""Gives a source that has these bytes (once more, for the same); of one scope."""

CONTENT = random_bytes(300_000, seed=81)
DIGEST = digest_of(CONTENT)
SPANS = [(0, None), (0, 1), (0, len(CONTENT)), (1, None), (299_999, None), (1000, 200_000)]


async def _read(body: Body) -> bytes:
    """As a fill does: a chunk stays as it is until the next but one is asked for."""
    content = bytearray()
    previous: bytes | memoryview | None = None
    async with aclosing(body.chunks) as chunks:
        async for chunk in chunks:
            if previous is not None:
                content += previous
            previous = chunk
        if previous is not None:
            content += previous
    return bytes(content)


class BlobSourceConformance:
    """Each test has a source of its own."""

    @pytest.mark.parametrize(("start", "stop"), SPANS)
    async def test_a_span_comes_as_it_is_and_the_body_says_what_it_is(
        self, has: Has, start: int, stop: int | None
    ) -> None:
        async with _open(has(CONTENT), start, stop) as body:
            assert body.start == start
            assert body.size == len(CONTENT)
            end = len(CONTENT) if stop is None or not body.is_range else stop
            assert body.stop == end
            assert await _read(body) == CONTENT[start:end]

    async def test_the_whole_is_no_range(self, has: Has) -> None:
        async with _open(has(CONTENT), 0, None) as body:
            assert not body.is_range

    async def test_an_empty_blob_is_an_empty_body(self, has: Has) -> None:
        for stop in (None, 1000):
            async with has(b"").open_blob(
                digest_of(b""), 0, stop, avoid=None, urgency=Urgency()
            ) as body:
                assert (body.start, body.size) == (0, 0)
                assert await _read(body) == b""

    @pytest.mark.parametrize("start", [len(CONTENT), len(CONTENT) + 1000])
    async def test_beyond_the_end_there_is_nothing_and_the_size_is_told(
        self, has: Has, start: int
    ) -> None:
        async with _open(has(CONTENT), start, None) as body:
            assert body.start == start
            assert body.size == len(CONTENT)
            assert not body.is_range
            assert await _read(body) == b""

    async def test_what_it_does_not_have_is_missing(self, has: Has) -> None:
        with pytest.raises(Missing):
            async with has(CONTENT).open_blob(
                digest_of(b"other"), 0, None, avoid=None, urgency=Urgency()
            ):
                pass

    async def test_whoever_sends_has_a_name_and_is_still_asked_when_there_is_no_other(
        self, has: Has
    ) -> None:
        source = has(CONTENT)
        async with _open(source, 0, None) as body:
            sender = body.sender
            assert sender.name
        source.distrust(DIGEST, [sender], is_disproved=False)
        sender.broke(timed_out=False)
        async with source.open_blob(DIGEST, 0, 10, avoid=sender, urgency=Urgency()) as body:
            assert (await _read(body))[:10] == CONTENT[:10]

    async def test_a_body_may_be_left_in_the_middle(self, has: Has) -> None:
        source = has(CONTENT)
        for _ in range(3):
            async with _open(source, 0, None) as body, aclosing(body.chunks) as chunks:
                assert await anext(chunks)
        async with _open(source, 0, None) as body:
            assert await _read(body) == CONTENT

    async def test_it_may_be_asked_now_and_says_for_whom_it_speaks(self, has: Has) -> None:
        source = has(CONTENT)
        assert source.wait() == 0
        assert source.upstream
        assert source.is_lasting in {True, False}

    async def test_the_same_source_is_equal_and_serves_as_a_key(self, has: Has) -> None:
        one, other = has(CONTENT), has(CONTENT)
        assert one == other
        assert len({one, other}) == 1


def _open(source: BlobSource, start: int, stop: int | None) -> AbstractAsyncContextManager[Body]:
    return source.open_blob(DIGEST, start, stop, avoid=None, urgency=Urgency())
