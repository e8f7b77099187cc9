"""Memory into which bodies are received, used again from one body to the next.

A new page costs a fault, and to be zeroed, as much as it costs to copy into it: for a large blob,
which comes in segments of a few buffers each, that was a fifth of all the work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from sys import getrefcount

SIZE = 2**21  # bytes; touched only as far as they are filled, so a slow line takes no memory
_MOST_KEPT = 16  # buffers: for four connections, and what of theirs is still being written
_NOBODY_ELSE = 3  # who refers to one that is free, as it is looked at: list, variable, argument


class Buffers:
    """Buffers for those who are `receiving`; with the last of them, what is kept goes.

    One that anybody still has a view of, such as a thread that writes it, is not given to others:
    CPython counts.
    """

    def __init__(self) -> None:
        self._kept: list[mmap] = []
        self._receiving = 0

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Buffers may be taken inside the block."""
        self._receiving += 1
        try:
            yield
        finally:
            self._receiving -= 1
            if not self._receiving:
                self._kept.clear()

    def take(self, size: int) -> memoryview:
        """One of `SIZE` bytes, or of as many as there will be, if that is less."""
        if size < SIZE:
            return memoryview(_new(size))
        for buffer in self._kept:
            if getrefcount(buffer) == _NOBODY_ELSE:
                return memoryview(buffer)
        buffer = _new(SIZE)
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(buffer)
        return memoryview(buffer)


def _new(size: int) -> mmap:
    return mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS)
