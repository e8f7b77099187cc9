"""What is pushed goes to the disk as it comes; what the disk refuses is kept by nobody."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import pytest

from mirror.oci.digest import Chunk, digest_of
from mirror.oci.errors import StoreError
from mirror.storage import spools
from mirror.storage.store import LocalStorage
from tests.support.process import until
from tests.unit.storage.opening import UPSTREAM, open_store

NAME = "0" * 32
CONTENT = b"pushed" * 1000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStorage]:
    async with open_store(tmp_path / "store") as opened:
        yield opened


async def test_the_disk_takes_what_comes_before_the_end_of_it(
    store: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync = list[int](), os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(spools, "_FLUSHED", len(CONTENT))
    spool = await store.spools.begin(NAME)
    await spool.append(CONTENT[:-1])
    await spool.flushed()
    assert not synced
    await spool.append(CONTENT[-1:])

    async def is_synced() -> bool:
        return synced == [len(CONTENT)]

    await until(is_synced)
    await spool.remove()
    spool.close()


async def test_what_the_disk_has_refused_once_is_not_kept(
    store: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of what it could not write once; the next sync succeeds."""
    refusals, sync = [OSError(5, "Input/output error")], os.fsync

    def refuse(descriptor: int) -> None:
        if refusals:
            raise refusals.pop()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    spool = await store.spools.begin(NAME)
    await spool.append(CONTENT)
    spool.flush()
    with pytest.raises(StoreError, match="Input/output error"):
        await store.keep_spool(UPSTREAM, digest_of(CONTENT), spool)
    assert not refusals
    spool.flush()  # nor is it tried again
    with pytest.raises(StoreError):
        await spool.flushed()
    assert not await store.is_stored(digest_of(CONTENT))
    await spool.remove()
    spool.close()


async def test_what_is_removed_meanwhile_is_no_trouble(store: LocalStorage) -> None:
    spool = await store.spools.begin(NAME)
    await spool.append(CONTENT)
    await spool.remove()
    spool.flush()
    await spool.flushed()
    spool.close()


class Gate:
    """What is spooled is written once it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_reached, self._is_open, write = Event(), Event(), os.pwrite

        def write_once_open(descriptor: int, chunk: Chunk, offset: int) -> int:
            self._is_reached.set()
            assert self._is_open.wait(30)
            return write(descriptor, chunk, offset)

        monkeypatch.setattr(os, "pwrite", write_once_open)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._is_reached.wait, 30)

    def open(self) -> None:
        self._is_open.set()


async def test_what_is_removed_is_gone_also_where_nobody_waits_for_that(
    store: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, gate = await store.spools.begin(NAME), Gate(monkeypatch)
    async with asyncio.TaskGroup() as group:
        appending = group.create_task(spool.append(CONTENT))
        await gate.reached()
        removing = group.create_task(spool.remove())
        await asyncio.sleep(0)
        removing.cancel()
        await asyncio.sleep(0)
        assert not removing.done()  # else its file would be closed under who writes to it
        gate.open()
    assert appending.done()
    assert not spool.path.exists()
    spool.close()


async def test_what_was_written_counts_where_nobody_waits_for_it_any_more(
    store: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, gate = await store.spools.begin(NAME), Gate(monkeypatch)
    async with asyncio.TaskGroup() as group:
        appending = group.create_task(spool.append(CONTENT))
        await gate.reached()
        appending.cancel()
        gate.open()
    assert spool.size == len(CONTENT)
    await spool.append(b"!")
    assert digest_of(CONTENT + b"!").matches(await spool.hasher())
    await spool.remove()
    spool.close()


class Brought:
    """A `Source` of what has come, so much at once."""

    def __init__(self, content: bytes, *, at_once: int, has_left: bool = False) -> None:
        self._rest = memoryview(content)
        self._at_once = at_once
        self._has_left = has_left

    def read_into(self, buffer: memoryview) -> int:
        came = min(self._at_once, len(buffer), len(self._rest))
        if not came and self._has_left:
            raise ConnectionResetError
        buffer[:came], self._rest = self._rest[:came], self._rest[came:]
        return came


async def test_what_a_source_has_is_taken_at_once_and_no_more_of_it_than_is_wanted(
    store: LocalStorage,
) -> None:
    spool = await store.spools.begin(NAME)
    source = Brought(CONTENT, at_once=100, has_left=True)
    assert await spool.take(source, 950) == 950
    assert await spool.take(source, len(CONTENT)) == len(CONTENT) - 950
    with pytest.raises(ConnectionResetError):
        await spool.take(source, 1)
    assert await spool.read(0, len(CONTENT)) == CONTENT
    assert digest_of(CONTENT).matches(await spool.hasher())
    await spool.remove()
    spool.close()


async def test_what_the_disk_refuses_of_a_source_is_written_once_there_is_room(
    store: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, write = [OSError(errno.ENOSPC, "No space left on device")], os.pwrite

    def refuse(descriptor: int, chunk: Chunk, offset: int) -> int:
        if refusals:
            raise refusals.pop()
        return write(descriptor, chunk, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    spool = await store.spools.begin(NAME)
    assert await spool.take(Brought(CONTENT, at_once=2**16), 2**20) == len(CONTENT)
    assert not refusals
    assert digest_of(CONTENT).matches(await spool.hasher())
    await spool.remove()
    spool.close()


async def test_what_is_noted_at_one_moment_is_there_as_one_of_them_has_noted_it(
    store: LocalStorage,
) -> None:
    spool = await store.spools.begin(NAME)
    notes = [bytes([number]) * 10_000 for number in range(100)]
    await asyncio.gather(*(spool.note(note) for note in notes))
    assert spool.path.with_suffix(".json").read_bytes() == notes[-1]
    await spool.remove()
    spool.close()


async def test_what_was_hashed_is_not_hashed_again_for_who_comes_after_one_that_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(tmp_path) as before:
        spool = await before.spools.begin(NAME)
        await spool.append(CONTENT)
        await spool.note(b"{}")
    monkeypatch.setattr(spools, "BLOCK", len(CONTENT) // 3)
    loop, read = asyncio.get_running_loop(), os.pread

    def leave(descriptor: int, length: int, offset: int) -> bytes:
        if offset:  # it has had a block
            loop.call_soon_threadsafe(hashing.cancel)
        return read(descriptor, length, offset)

    async with open_store(tmp_path) as store:
        [(spool, _)] = await store.spools.find_all()
        monkeypatch.setattr(os, "pread", leave)
        async with asyncio.TaskGroup() as group:
            hashing = group.create_task(spool.hasher())
        assert hashing.cancelled()
        monkeypatch.setattr(os, "pread", read)
        assert digest_of(CONTENT).matches(await spool.hasher())
