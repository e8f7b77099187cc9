"""What is written to the disk as it comes from elsewhere, by way of memory that is used again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

BLOCK = 2**21
"""Bytes that are written, or read back, at a time: each time has its price in turns of the loop."""

_MOST_KEPT = 4  # blocks


class Source(Protocol):
    """Where bytes come from that are written away as they come."""

    def read_into(self, buffer: memoryview) -> int:
        """Fill it with what is there, and wait for nothing; how many bytes. In a thread.

        Raises:
            ConnectionError: Nothing will come any more.
        """


class Blocks:
    """Memory of `BLOCK` bytes each, used again: a new page costs as much as to copy into it."""

    def __init__(self) -> None:
        self._kept: list[bytearray] = []

    @contextmanager
    def taking(self) -> Iterator[memoryview]:
        """One of them, inside the block. From any thread."""
        try:
            block = self._kept.pop()
        except IndexError:
            block = bytearray(BLOCK)
        with memoryview(block) as view:
            yield view
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(block)

    def clear(self) -> None:
        """Nobody needs them for now."""
        self._kept.clear()


def read_some(source: Source, block: memoryview) -> int:
    """What it has by now: as much as fits, since each piece has its price."""
    came = 0
    while came < len(block):
        try:
            read = source.read_into(block[came:])
        except ConnectionError:
            if came:
                break  # it says so again
            raise
        if not read:
            break
        came += read
    return came
