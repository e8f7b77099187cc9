"""What every implementation of `mirror.sources.targets.Target` must do.

class TestSomeTarget(TargetConformance):
    @pytest.fixture
    async def target_of(self) -> AsyncIterator[TargetOf]: ...
"""

from collections.abc import AsyncIterator, Callable
from io import FileIO
from pathlib import Path

import pytest

from mirror.aio.sending import FilePart
from mirror.oci.digest import digest_of
from mirror.oci.errors import Missing, Refused
from mirror.oci.reference import Tag
from mirror.sources.targets import Sendable, Standing, Target
from tests.support.images import image, random_bytes, random_layer

TargetOf = Callable[[str], Target]
"""Gives the target of a repository by its name, once more the same for the same name."""

CONTENT = random_bytes(300_000, seed=82)
DIGEST = digest_of(CONTENT)
EMPTY = digest_of(b"")
_PIECE = 50_000


async def pieces(content: bytes) -> AsyncIterator[memoryview]:
    """Content, as a spool is read: the memory of a piece is used again for the next."""
    memory = bytearray(_PIECE)
    for start in range(0, len(content), _PIECE):
        piece = content[start : start + _PIECE]
        memory[: len(piece)] = piece
        yield memoryview(memory)[: len(piece)]


async def parts(file: FileIO) -> AsyncIterator[Sendable]:
    """The same, with each kind of piece behind each other."""

    async def read_at(position: int, length: int) -> bytes:
        return CONTENT[position : position + length]

    is_cold = {"kernel": False, "read": True}
    order = ("kernel", "kernel", "bytes", "read", "kernel", "read", "bytes", "kernel", "bytes")
    size = len(CONTENT) // len(order)
    for number, way in enumerate(order):
        start, last = number * size, number == len(order) - 1
        stop = len(CONTENT) if last else start + size
        if way == "bytes":
            yield CONTENT[start:stop]
        else:
            yield FilePart(file, start, stop - start, read_at, is_cold[way])


async def begun(target: Target) -> Standing:
    """An upload that has begun."""
    standing = await target.begin()
    assert standing is not None
    assert standing.offset == 0
    return standing


async def push(target: Target, content: bytes) -> None:
    """As dockerd does it: all of it in one request, in chunked coding, and then the digest."""
    at = await target.send(await begun(target), pieces(content), length=None)
    assert at.offset == len(content)
    await target.finish(at, digest_of(content))


class TargetConformance:
    """Each test has repositories of its own."""

    async def test_what_is_pushed_as_dockerd_pushes_is_there(self, target_of: TargetOf) -> None:
        target = target_of("app")
        assert await target.find_blob(DIGEST) is None
        await push(target, CONTENT)
        assert await target.find_blob(DIGEST) == len(CONTENT)

    @pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["nothing", "a byte", "more"])
    async def test_all_of_it_may_come_with_the_end(
        self, target_of: TargetOf, content: bytes
    ) -> None:
        target, digest = target_of("app"), digest_of(content)
        await target.finish(await begun(target), digest, pieces(content), length=len(content))
        assert await target.find_blob(digest) == len(content)

    async def test_it_may_come_in_parts_of_which_the_last_comes_with_the_end(
        self, target_of: TargetOf
    ) -> None:
        target = target_of("app")
        at = await begun(target)
        for start, stop in ((0, 1), (1, 100_000), (100_000, 200_000)):
            at = await target.send(at, pieces(CONTENT[start:stop]), length=stop - start)
            assert at.offset == stop
        at = await target.send(at, pieces(CONTENT[200_000:250_000]), length=None)
        await target.finish(at, DIGEST, pieces(CONTENT[250_000:]), length=50_000)
        assert await target.find_blob(DIGEST) == len(CONTENT)

    @pytest.mark.parametrize("length", [None, len(CONTENT)], ids=["chunks", "length"])
    async def test_it_may_come_from_a_file_in_part_and_in_part_from_memory(
        self, target_of: TargetOf, tmp_path: Path, length: int | None
    ) -> None:
        file = tmp_path / "content"
        file.write_bytes(CONTENT)
        target = target_of("app")
        with FileIO(file) as opened:
            at = await target.send(await begun(target), parts(opened), length=length)
        assert at.offset == len(CONTENT)
        await target.finish(at, DIGEST)
        assert await target.find_blob(DIGEST) == len(CONTENT)

    async def test_it_tells_how_far_an_upload_has_come_and_goes_on_from_there(
        self, target_of: TargetOf
    ) -> None:
        target = target_of("app")
        at = await target.send(await begun(target), pieces(CONTENT[:70_000]), length=70_000)
        at = await target.ask(at)
        assert at.offset == 70_000
        at = await target.send(at, pieces(CONTENT[70_000:]), length=None)
        await target.finish(at, DIGEST)

    async def test_an_upload_goes_on_by_what_was_written_down_of_it(
        self, target_of: TargetOf
    ) -> None:
        at = await target_of("app").send(
            await begun(target_of("app")), pieces(CONTENT[:70_000]), length=70_000
        )
        at = Standing(at.location, at.offset, at.least)
        await target_of("app").finish(at, DIGEST, pieces(CONTENT[70_000:]), length=230_000)
        assert await target_of("app").find_blob(DIGEST) == len(CONTENT)

    async def test_a_digest_that_is_another_is_refused_in_its_own_words_and_nothing_is_there(
        self, target_of: TargetOf
    ) -> None:
        target = target_of("app")
        at = await target.send(await begun(target), pieces(CONTENT), length=None)
        with pytest.raises(Refused) as refusal:
            await target.finish(at, EMPTY)
        assert refusal.value.status == 400
        assert refusal.value.errors[0]["code"] == "DIGEST_INVALID"
        assert await target.find_blob(EMPTY) is None
        assert await target.find_blob(DIGEST) is None

    async def test_an_upload_that_was_cancelled_is_not_there(self, target_of: TargetOf) -> None:
        target = target_of("app")
        at = await target.send(await begun(target), pieces(CONTENT), length=None)
        await target.cancel(at)
        with pytest.raises(Missing):
            await target.ask(at)
        with pytest.raises(Missing):
            await target.finish(at, DIGEST)
        await target.cancel(at)  # once more is no trouble

    async def test_a_blob_of_another_repository_is_mounted(self, target_of: TargetOf) -> None:
        await push(target_of("other"), CONTENT)
        target = target_of("app")
        assert await target.begin(mount=DIGEST, source="other") is None
        assert await target.find_blob(DIGEST) == len(CONTENT)

    async def test_what_cannot_be_mounted_is_an_upload_that_has_begun(
        self, target_of: TargetOf
    ) -> None:
        target = target_of("app")
        at = await target.begin(mount=DIGEST, source="other")
        assert at is not None
        await target.finish(at, DIGEST, pieces(CONTENT), length=len(CONTENT))

    async def test_a_manifest_is_taken_as_it_is_by_tag_and_by_digest(
        self, target_of: TargetOf
    ) -> None:
        target, pushed = target_of("app"), image(random_layer(1000, seed=1))
        for content in pushed.blobs.values():
            await push(target, content)
        digest = digest_of(pushed.manifest)
        for reference in (Tag("1.0"), digest):
            told = await target.put_manifest(reference, pushed.media_type, pushed.manifest)
            assert told.digest == digest

    async def test_a_manifest_of_what_is_not_there_is_refused_in_its_own_words(
        self, target_of: TargetOf
    ) -> None:
        target, pushed = target_of("app"), image(random_layer(1000, seed=1))
        with pytest.raises(Refused) as refusal:
            await target.put_manifest(Tag("1.0"), pushed.media_type, pushed.manifest)
        assert {error["code"] for error in refusal.value.errors} == {"MANIFEST_BLOB_UNKNOWN"}

    async def test_the_same_target_is_equal_and_serves_as_a_key(self, target_of: TargetOf) -> None:
        assert len({target_of("app"), target_of("app"), target_of("other")}) == 2
        assert target_of("app").repository.name.endswith("app")
        assert target_of("app").upstream
