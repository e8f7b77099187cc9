"""A file system of its own that is small, for what happens where a disk is full."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.process import run
from tests.support.require import require, require_root


@asynccontextmanager
async def small_disk(path: Path, size: int, *, files: int = 100_000) -> AsyncIterator[Path]:
    """Mounted at a new directory inside the block, with room for so many bytes, and files."""
    require("mount", "umount")
    require_root()
    path.mkdir()  # noqa: ASYNC240 - a moment
    await run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={files}", "store-test", path)
    try:
        yield path
    finally:
        await run("umount", "--lazy", path)  # also where a failed test has left files open
