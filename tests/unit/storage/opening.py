"""A store to test, and blobs to put into it."""

import os
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

from mirror.oci.compact import unpack
from mirror.oci.digest import Digest, digest_of
from mirror.storage.building import open_storage
from mirror.storage.policy import Policy
from mirror.storage.ports import OpenBlob, Storage, Writer
from mirror.storage.scrub import ScrubPace
from mirror.storage.space import Limits
from mirror.storage.store import LocalStorage
from mirror.storage.threads import Threads
from mirror.storage.usage import ContentOnly, Usage
from mirror.telemetry.metrics import Metrics
from tests.support.clock import FakeClock

UPSTREAM = "docker.io"


@asynccontextmanager
async def open_store(
    root: Path,
    *,
    max_size: int = 10_000_000,
    min_free: int = 0,
    keep_partial_for: float = 86400,
    clock: Callable[[], float] | None = None,
    metrics: Metrics | None = None,
    policy: Policy | None = None,
    threads: Threads | None = None,
    scrub: ScrubPace | None = None,
    max_quarantine: int = 0,
    dropped: Callable[[Digest], None] = lambda _: None,
    is_served: bool = True,
    counting: type[Usage] = ContentOnly,
) -> AsyncIterator[LocalStorage]:
    """An open store; raises the first fault of its own at the end.

    What counts is the content alone, so that examples can be small.
    """
    faults: list[Exception] = []
    async with open_storage(
        root,
        Limits(max_size, min_free),
        keep_partial_for=keep_partial_for,
        clock=clock or FakeClock(),
        metrics=metrics or Metrics(),
        policy=policy,
        threads=threads,
        scrub=scrub or ScrubPace(30 * 86400, 10**9),
        max_quarantine=max_quarantine,
        dropped=dropped,
        is_served=is_served,
        counting=counting,
        note_fault=lambda _, fault: faults.append(fault),
    ) as store:
        yield store
    if faults:
        raise faults[0]


def content(size: int, seed: int = 0) -> bytes:
    """`size` bytes that are like no others."""
    return random.Random(f"{size} {seed}").randbytes(size)  # noqa: S311 - not a secret


async def expecting(
    store: Storage,
    digest: Digest,
    size: int,
    *,
    upstream: str = UPSTREAM,
    is_size_proved: bool = False,
) -> Writer:
    """A writer of a blob that has begun to come, and is of `size` bytes by upstream's word."""
    writer = await store.open_writer(upstream, digest, size, is_size_proved=is_size_proved)
    try:
        await writer.expect(size)
    except BaseException:
        await writer.suspend()
        writer.close()
        raise
    return writer


async def put(store: Storage, data: bytes, *, upstream: str = UPSTREAM) -> Digest:
    """Store `data` the long way, as a fill would."""
    digest = digest_of(data)
    writer = await expecting(store, digest, len(data), upstream=upstream)
    await write(writer, 0, data)
    await writer.commit()
    writer.close()
    return digest


async def write(writer: Writer, offset: int, *chunks: bytes) -> None:
    """Write `chunks` at `offset`, and wait for it."""
    async with writer.pen() as pen:
        await pen.write(offset, chunks)


async def held(store: Storage, digest: Digest) -> bytes | None:
    """What a client would read."""
    blob = await store.open_blob(digest)
    if blob is None:
        return None
    try:
        return read(blob)
    finally:
        blob.close()


def read(blob: OpenBlob) -> bytes:
    return os.pread(blob.file.fileno(), blob.size + 1, 0)


def blob_path(root: Path, digest: Digest) -> Path:
    return root / "blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded


def partial_path(root: Path, digest: Digest, upstream: str = UPSTREAM) -> Path:
    return root / "partial" / upstream / f"{digest.algorithm}-{digest.encoded}"


def rot(path: Path) -> None:
    """Turn one bit over, as disks do."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def quarantined(root: Path) -> set[str]:
    """The names of what has been set aside."""
    return {path.name for path in (root / "quarantine").glob("*")}


def on_disk(root: Path) -> set[str]:
    """The names of all complete blobs."""
    return {path.name for path in (root / "blobs").glob("*/*/*")}


def partials(root: Path) -> set[str]:
    """The names of all files that have to do with partial blobs."""
    return {path.name for path in (root / "partial").rglob("*") if path.is_file()}


def recorded(root: Path, sql: str) -> list[tuple[object, ...]]:
    """What the index says."""
    with closing(sqlite3.connect(root / "index.sqlite3")) as connection:
        return connection.execute(sql).fetchall()


def recorded_partials(root: Path) -> set[tuple[object, ...]]:
    """The upstream and the digest of every partial that the next start would look for."""
    rows = recorded(root, "SELECT upstream, hex(digest) FROM partials")
    return {(upstream, str(unpack(bytes.fromhex(str(digest))))) for upstream, digest in rows}
