"""A store to test, and blobs to put into it."""

import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from mirror.oci.digest import Digest, digest_of
from mirror.storage.files import BlobFile
from mirror.storage.space import Limits
from mirror.storage.store import Store
from mirror.telemetry.metrics import Metrics
from tests.support.clock import FakeClock


@asynccontextmanager
async def open_store(
    root: Path,
    *,
    max_size: int = 10_000_000,
    min_free: int = 0,
    keep_partial_for: float = 86400,
    clock: Callable[[], float] | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[Store]:
    """An open store; raises the first fault of its own at the end."""
    faults: list[Exception] = []
    async with Store.open(
        root,
        Limits(max_size, min_free),
        keep_partial_for=keep_partial_for,
        clock=clock or FakeClock(),
        metrics=metrics or Metrics(),
        note_fault=lambda _, fault: faults.append(fault),
    ) as store:
        yield store
    if faults:
        raise faults[0]


def content(size: int, seed: int = 0) -> bytes:
    """`size` bytes that are like no others."""
    return random.Random(f"{size} {seed}").randbytes(size)  # noqa: S311 - not a secret


async def put(store: Store, data: bytes) -> Digest:
    """Store `data` the long way, as a fill would."""
    digest = digest_of(data)
    writer = await store.open_writer(digest, len(data))
    await writer.write(0, [data])
    await writer.commit()
    writer.close()
    return digest


def read(blob: BlobFile) -> bytes:
    return os.pread(blob.file.fileno(), blob.size + 1, 0)


def blob_path(root: Path, digest: Digest) -> Path:
    return root / "blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded


def partial_path(root: Path, digest: Digest) -> Path:
    return root / "partial" / f"{digest.algorithm}-{digest.encoded}"


def on_disk(root: Path) -> set[str]:
    """The names of all complete blobs."""
    return {path.name for path in (root / "blobs").glob("*/*/*")}


def partials(root: Path) -> set[str]:
    """The names of all files that have to do with partial blobs."""
    return {path.name for path in (root / "partial").iterdir()}
