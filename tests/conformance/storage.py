"""What every implementation of `mirror.storage.ports.Storage` must do: inherit, and give a fixture.

class TestSomeStorage(StorageConformance):
    @pytest.fixture
    async def storage(self) -> AsyncIterator[Storage]: ...

It has room for `ROOM` bytes, and begins empty.
"""

import os

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.storage.errors import NoRoom, TooLarge
from mirror.storage.ports import Storage, Writer
from tests.support.images import random_bytes

ROOM = 1_000_000
HUB, EVIL = "docker.io", "evil.example"
CONTENT = random_bytes(100_000, seed=91)
DIGEST = digest_of(CONTENT)


async def _write(writer: Writer, start: int, content: bytes) -> None:
    async with writer.pen() as pen:
        await pen.write(start, [content])


async def _held(storage: Storage, digest: Digest) -> bytes | None:
    blob = await storage.open_blob(digest)
    if blob is None:
        return None
    try:
        assert blob.digest == digest
        return os.pread(blob.file.fileno(), blob.size + 1, 0)
    finally:
        blob.close()


class StorageConformance:
    """Each test has a storage of its own."""

    # Reading

    async def test_what_nobody_has_written_is_not_here(self, storage: Storage) -> None:
        assert await storage.open_blob(DIGEST) is None
        assert await storage.read_blob(DIGEST, limit=ROOM) is None
        assert not await storage.is_stored(DIGEST)
        assert await storage.find_stored([DIGEST]) == set()
        assert [batch async for batch in storage.list_stored()] == []

    @pytest.mark.parametrize("is_manifest", [False, True])
    async def test_what_is_kept_is_here_byte_for_byte(
        self, storage: Storage, *, is_manifest: bool
    ) -> None:
        await storage.keep(HUB, DIGEST, CONTENT, is_manifest=is_manifest)
        assert await _held(storage, DIGEST) == CONTENT
        assert await storage.read_blob(DIGEST, limit=len(CONTENT)) == CONTENT
        assert await storage.is_stored(DIGEST)
        assert await storage.find_stored([digest_of(b"other"), DIGEST]) == {DIGEST}
        listed = [stored async for batch in storage.list_stored() for stored in batch]
        assert listed == [(DIGEST, len(CONTENT))]

    async def test_what_is_larger_than_the_limit_is_not_read_into_memory(
        self, storage: Storage
    ) -> None:
        await storage.keep(HUB, DIGEST, CONTENT)
        assert await storage.read_blob(DIGEST, limit=len(CONTENT) - 1) is None
        assert await storage.is_stored(DIGEST)

    async def test_a_blob_is_stored_once_whoever_has_sent_it(self, storage: Storage) -> None:
        await storage.keep(HUB, DIGEST, CONTENT)
        await storage.keep(EVIL, DIGEST, CONTENT)
        listed = [stored async for batch in storage.list_stored() for stored in batch]
        assert listed == [(DIGEST, len(CONTENT))]

    # Writing

    async def test_pieces_may_come_in_any_order_and_readers_follow(self, storage: Storage) -> None:
        writer = await storage.open_writer(HUB, DIGEST, len(CONTENT))
        assert (writer.digest, writer.written) == (DIGEST, 0)
        await _write(writer, 60_000, CONTENT[60_000:])
        assert (writer.written, writer.total) == (0, 40_000)
        assert writer.missing() == [(0, 60_000)]
        assert [writer.end_at(position) for position in (0, 59_999)] == [0, 59_999]
        assert writer.end_at(70_000) == len(CONTENT)
        assert os.pread(writer.file.fileno(), ROOM, 70_000) == CONTENT[70_000:]
        await _write(writer, 0, CONTENT[:60_000])
        assert writer.end_at(0) == len(CONTENT)
        assert writer.written == len(CONTENT)
        assert os.pread(writer.file.fileno(), ROOM, 0) == CONTENT
        assert writer.is_proved()
        await writer.commit()
        assert os.pread(writer.file.fileno(), ROOM, 0) == CONTENT
        writer.close()
        assert await _held(storage, DIGEST) == CONTENT

    async def test_what_is_not_what_its_digest_says_is_never_kept(self, storage: Storage) -> None:
        writer = await storage.open_writer(HUB, DIGEST, len(CONTENT))
        await _write(writer, 0, bytes(len(CONTENT)))
        assert not writer.is_proved()
        with pytest.raises(StoreError):
            await writer.commit()
        await writer.discard()
        writer.close()
        assert await _held(storage, DIGEST) is None

    async def test_what_is_suspended_is_continued_and_what_is_discarded_is_not(
        self, storage: Storage
    ) -> None:
        for is_kept in (True, False):
            writer = await storage.open_writer(HUB, DIGEST, len(CONTENT))
            await _write(writer, writer.written, CONTENT[writer.written : 50_000])
            await (writer.suspend() if is_kept else writer.discard())
            writer.close()
            writer = await storage.open_writer(HUB, DIGEST, len(CONTENT))
            assert writer.written == (50_000 if is_kept else 0)
            await writer.suspend()
            writer.close()

    async def test_bytes_that_are_not_proved_are_one_upstreams_alone(
        self, storage: Storage
    ) -> None:
        evil = await storage.open_writer(EVIL, DIGEST, len(CONTENT))
        await _write(evil, 0, bytes(50_000))
        honest = await storage.open_writer(HUB, DIGEST, len(CONTENT))
        assert honest.written == 0
        await _write(honest, 0, CONTENT)
        await honest.commit()
        honest.close()
        assert await _held(storage, DIGEST) == CONTENT
        await evil.discard()
        evil.close()
        assert await _held(storage, DIGEST) == CONTENT

    async def test_whoever_commits_second_finds_it_stored(self, storage: Storage) -> None:
        writers = [await storage.open_writer(name, DIGEST, len(CONTENT)) for name in (HUB, EVIL)]
        for writer in writers:
            await _write(writer, 0, CONTENT)
        for writer in writers:
            await writer.commit()
            writer.close()
        assert await _held(storage, DIGEST) == CONTENT

    async def test_one_upstreams_bytes_have_one_writer_at_a_time(self, storage: Storage) -> None:
        writer = await storage.open_writer(HUB, DIGEST, None)
        with pytest.raises(StoreError):
            await storage.open_writer(HUB, DIGEST, None)
        await writer.discard()
        writer.close()
        again = await storage.open_writer(HUB, DIGEST, None)
        await again.discard()
        again.close()

    async def test_a_hint_on_the_size_cuts_nothing_and_what_is_expected_counts(
        self, storage: Storage
    ) -> None:
        writer = await storage.open_writer(HUB, DIGEST, len(CONTENT))
        await _write(writer, 0, CONTENT[:50_000])
        await writer.suspend()
        writer.close()
        writer = await storage.open_writer(HUB, DIGEST, 10)
        assert writer.written == 50_000
        assert writer.size is None
        await writer.expect(len(CONTENT))
        assert writer.missing() == [(50_000, len(CONTENT))]
        await _write(writer, 50_000, CONTENT[50_000:])
        await writer.commit()
        writer.close()
        assert await _held(storage, DIGEST) == CONTENT

    # Room

    async def test_what_can_never_fit_is_told_so_and_costs_nobody_anything(
        self, storage: Storage
    ) -> None:
        await storage.keep(HUB, DIGEST, CONTENT)
        with pytest.raises(TooLarge):
            await storage.open_writer(HUB, digest_of(b"large"), ROOM + 1)
        assert await _held(storage, DIGEST) == CONTENT

    async def test_what_was_used_least_recently_makes_room_and_what_is_read_does_not(
        self, storage: Storage
    ) -> None:
        old, read, used = (random_bytes(300_000, seed=seed) for seed in (92, 93, 94))
        for content in (old, read, used):
            await storage.keep(HUB, digest_of(content), content)
        reader = await storage.open_blob(digest_of(read))
        assert reader is not None
        storage.note_access(digest_of(used))
        await storage.keep(HUB, digest_of(b"new"), b"new")
        large = random_bytes(350_000, seed=95)
        await storage.keep(HUB, digest_of(large), large)
        assert not await storage.is_stored(digest_of(old))
        assert await storage.find_stored([digest_of(read), digest_of(used)]) == {
            digest_of(read),
            digest_of(used),
        }
        huge = random_bytes(ROOM - 200_000, seed=96)
        with pytest.raises(NoRoom):  # what is read would have to go
            await storage.keep(HUB, digest_of(huge), huge)
        reader.close()
        await storage.keep(HUB, digest_of(huge), huge)
        assert await _held(storage, digest_of(huge)) == huge

    # Dropping

    async def test_what_is_dropped_is_gone_for_whoever_comes_and_not_for_who_reads(
        self, storage: Storage
    ) -> None:
        await storage.keep(HUB, DIGEST, CONTENT)
        reader = await storage.open_blob(DIGEST)
        assert reader is not None
        await storage.drop(DIGEST)
        assert await storage.open_blob(DIGEST) is None
        assert not await storage.is_stored(DIGEST)
        assert os.pread(reader.file.fileno(), ROOM, 0) == CONTENT
        reader.close()
        await storage.keep(HUB, DIGEST, CONTENT)
        assert await _held(storage, DIGEST) == CONTENT

    async def test_what_is_not_here_can_be_dropped_all_the_same(self, storage: Storage) -> None:
        await storage.drop(DIGEST)
        assert not await storage.is_stored(DIGEST)
