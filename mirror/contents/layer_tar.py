"""A layer's files, from its bytes (image-spec, layer.md): tar, plain, by gzip or zstd. In bounds.

Whoever has made it may have wanted to do harm: it is never unpacked, and what is read of it is
bounded in bytes, entries and the length of a path; zstd's window by its library, to 128 MiB. By the
standard library alone (zstd is part of it since Python 3.14), since it is read in a process of its
own (`layer_program.py`).
"""

import gzip
import hashlib
import io
import sys
import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MOST_ENTRIES = 200_000
"""Of one layer; large images have as many in all of theirs."""

MOST_BYTES = 32 * 2**30
"""Of a layer, unpacked."""

LONGEST_PATH = 4_096
"""Characters: Linux opens no longer ones (PATH_MAX)."""

_LARGEST = 2**63 - 1  # of a number; tar has room for any
_PIECE = 2**20  # bytes
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPED = b"\x2a\x4d\x18"  # RFC 8878, 3.1.2: after 0x50 to 0x5f; pzstd and zstd:chunked have these
_OF_SKIPPED = 5
_TYPES = {
    tarfile.DIRTYPE: "d", tarfile.SYMTYPE: "l", tarfile.LNKTYPE: "h", tarfile.CHRTYPE: "c",
    tarfile.BLKTYPE: "b", tarfile.FIFOTYPE: "p",
}  # fmt: skip


Unpacked = io.BufferedReader | gzip.GzipFile | zstd.ZstdFile


class Unreadable(Exception):
    """A layer that cannot be read; in words for an operator."""


class Entry(NamedTuple):
    """What a layer puts at a path; `type` as `ls` says it, "x": what is there is removed.

    "o": of a directory, all that lower layers have in it is removed. `checksum` is of a file's
    content: enough to see whether it is another one.
    """

    path: str
    type: str
    mode: int
    owner: int
    group: int
    size: int
    modified: float
    link: str
    checksum: str


def read_layer(path: str) -> Iterator[Entry]:
    """Every entry of the layer in a file, in its order. Raises Unreadable, OSError."""
    with open(path, "rb") as file:  # noqa: PTH123 - /proc/self/fd/..., too
        magic = file.read(4)
        file.seek(0)
        unpacked: Unpacked = file
        if magic.startswith(_GZIP):
            unpacked = gzip.GzipFile(fileobj=file)
        elif magic == _ZSTD or (magic[1:] == _SKIPPED and magic[0] >> 4 == _OF_SKIPPED):
            unpacked = zstd.ZstdFile(file)
        try:
            yield from _read_tar(_Counted(unpacked))
        except (
            tarfile.TarError, zlib.error, zstd.ZstdError, EOFError, ValueError, gzip.BadGzipFile,
        ) as error:  # fmt: skip
            raise Unreadable(f"it is no whole tar archive: {error}") from error
        except (MemoryError, RecursionError) as error:
            raise Unreadable("what stands in it takes too much memory") from error


def _read_tar(file: "_Counted") -> Iterator[Entry]:
    count = 0
    with tarfile.open(fileobj=file, mode="r|", errorlevel=2) as archive:
        while (member := archive.next()) is not None:
            vars(archive)["members"].clear()  # it would remember all
            count += 1
            if count > MOST_ENTRIES:
                raise Unreadable(f"it has more than {MOST_ENTRIES} entries")
            if (entry := _entry(archive, member)) is not None:
                yield entry


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry | None:
    path = normalized(_shown(member.name))
    if path is None or len(member.linkname) > LONGEST_PATH:
        raise Unreadable(f"it has a path of more than {LONGEST_PATH} characters, or out of it")
    parent, _, name = path.rpartition("/")
    kind = _TYPES.get(member.type, "-")
    if name == _OPAQUE:
        path, kind = parent or "/", "o"
    elif name.startswith(_WHITEOUT):
        path, kind = f"{parent}/{name.removeprefix(_WHITEOUT)}", "x"
        if name == _WHITEOUT:
            return None
    has_content = kind == "-" and not member.issparse()  # holes are endless
    checksum = _checksum(archive, member) if has_content else ""
    return Entry(
        path, kind, member.mode & 0o7777, _number(member.uid), _number(member.gid),
        _number(member.size) if kind == "-" else 0, _time(member.mtime), _shown(member.linkname),
        checksum,
    )  # fmt: skip


def _number(told: int) -> int:
    """As far as others can take it: headers have as many digits as somebody likes."""
    return min(max(told, 0), _LARGEST)


def _time(told: float) -> float:
    """Seconds since the epoch; 0.0 where that is none (a header may say "nan")."""
    return float(told) if -_LARGEST <= told <= _LARGEST else 0.0


def _shown(name: str) -> str:
    """A name as text, whatever bytes it is made of."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _checksum(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = archive.extractfile(member)  # nothing is written
    hasher = hashlib.sha256()
    while content is not None and (piece := content.read(_PIECE)):
        hasher.update(piece)
    return hasher.hexdigest()[:16]


def normalized(path: str) -> str | None:
    """An absolute path, without dots; None where it is too long, or leads out of the root."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts or len(path) > LONGEST_PATH:
        return None
    return "/" + "/".join(parts)


class _Counted(io.RawIOBase):
    """What is unpacked, and no more of it than there may be."""

    def __init__(self, file: Unpacked) -> None:
        super().__init__()
        self._file = file
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self.count += len(content)
        if self.count > MOST_BYTES:
            raise Unreadable(f"it unpacks to more than {MOST_BYTES // 2**30} GiB")
        return content
