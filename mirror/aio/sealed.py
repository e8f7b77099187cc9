"""Bytes in a file in memory that nobody can change any more: so, many go to another process.

Nobody can cut a sealed file while it is read (which would end a reader of its mapping by a signal),
or let it be seen in two versions; and only files in memory can be sealed: none that blocks.
"""

import errno
import fcntl
import os
from collections.abc import Sequence

MOST_AT_ONCE = 2**20
"""Bytes of a `Bulk`."""

_PIECES = 512  # in one system call, which takes 1,024
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def seal(pieces: Sequence[bytes]) -> int:
    """A descriptor of a file that holds these, one after another. Raises OSError."""
    descriptor = os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # Written, not mapped: the kernel then need not clear each page first.
        offset = 0
        for start in range(0, len(pieces), _PIECES):
            some = pieces[start : start + _PIECES]
            size = sum(map(len, some))
            if os.pwritev(descriptor, some, offset) != size:
                raise _no_memory()
            offset += size
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _no_memory() -> OSError:
    return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def read_sealed(descriptor: int, *, most: int) -> bytes:
    """What is in such a file, of whoever has made it; the descriptor stays open.

    Raises:
        ValueError: It is no sealed file in memory, or holds more than `most` bytes.
    """
    try:
        if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise ValueError("it is not sealed")
        size = os.fstat(descriptor).st_size
        if size > most:
            raise ValueError(f"it has {size} bytes")
        return os.pread(descriptor, size, 0)
    except OSError as error:
        raise ValueError("it is no file in memory") from error


class Bulk:
    """Bytes that go beside a message, and not in it: in one piece, or as they came, in several."""

    __slots__ = ("pieces", "size")

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.size = sum(map(len, pieces))

    def whole(self) -> bytes:
        """All of them."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
