"""What cannot be kept, and what the file system raises, in the operator's words."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from mirror.oci.errors import StoreError

_NO_DIRECTORY = "; set store.root to a directory: there is something else in its place"
_NO_ACCESS = "; give the mirror's user write access to store.root, or set another store.root"
_HINTS = {
    errno.ENOTDIR: _NO_DIRECTORY,
    errno.EEXIST: _NO_DIRECTORY,
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.EROFS: (
        "; the system has made it read-only (dmesg may say why): make it writable, or set another"
        " store.root"
    ),
}


class NoRoom(StoreError):
    """The blob cannot be kept within the limits: it is streamed through instead."""


class TooLarge(NoRoom):
    """The blob is larger than the store may ever be."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise StoreError for OSError; NoRoom where the disk is full."""
    try:
        yield
    except OSError as error:
        where = error.filename or "store.root"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoRoom(
                f"cannot write to {where}: {error.strerror};"
                " free space there, or set store.root to a disk that has some"
            ) from error
        hint = _HINTS.get(error.errno or 0, "")
        raise StoreError(f"cannot use {where}: {error.strerror}{hint}") from error
