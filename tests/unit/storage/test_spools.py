"""What is pushed goes to the disk as it comes; what the disk refuses is kept by nobody."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.oci.digest import digest_of
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
