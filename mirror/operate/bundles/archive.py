"""The tar that a bundle is, read and written.

Whoever has made a bundle may have meant harm. Nothing in it becomes a file name: what it names is
looked up in it alone, links and devices are refused, and so is what says to be larger than it is.
Python's `tarfile` reads what a header announces: here it gets no more than a header needs.
"""

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mirror.oci.digest import Digest
from mirror.oci.layout import (
    INDEX_FILE,
    REFERRERS_FILE,
    VERSION_FILE,
    BadLayout,
    Layout,
    parse_blob_path,
    parse_index,
    require_version,
)

_MOST_MEMBERS = 100_000
_LONGEST_HEADER = 2**15  # bytes of a member's headers, all together
_LONGEST_INDEX = 8 * 2**20  # bytes
_CHUNK = 2**20  # bytes
_OF_DOCKER = "layer.tar"  # what `docker save` made before Docker 25 has such, and links to them
_FILES = frozenset({VERSION_FILE, INDEX_FILE, REFERRERS_FILE})
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a member's content stands in the file, in bytes."""

    start: int
    size: int


class Archive:
    """A bundle that is open for reading. Use `Archive.open`."""

    def __init__(self, file: BinaryIO, places: Mapping[str | Digest, _Place]) -> None:
        self._file = file
        self._places = places

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator["Archive"]:
        """Open a bundle, and see what is in it; no content is read.

        Raises:
            BadLayout: It is no bundle.
            OSError: The file cannot be read.
        """
        if path.exists() and not path.is_file():
            raise BadLayout(f"{path} is no file; a bundle is read more than once")
        with path.open("rb") as file:
            try:
                yield cls(file, dict(_members(file, path.stat().st_size)))
            except (tarfile.TarError, RecursionError, EOFError) as error:
                raise BadLayout(f"{path} is no tar (nor may it be compressed): {error}") from error

    @property
    def digests(self) -> set[Digest]:
        """The blobs that it holds, by their names."""
        return {name for name in self._places if isinstance(name, Digest)}

    def __contains__(self, digest: Digest) -> bool:
        """Whether it holds a blob, by its name."""
        return digest in self._places

    def layout(self) -> Layout:
        """What its index says. Raises BadLayout."""
        require_version(self._read_file(VERSION_FILE))
        return parse_index(self._read_file(INDEX_FILE))

    def companions(self) -> Layout:
        """What refers to its images. Raises BadLayout."""
        if REFERRERS_FILE not in self._places:
            return Layout((), 0.0)
        return parse_index(self._read_file(REFERRERS_FILE), REFERRERS_FILE)

    def size_of(self, digest: Digest) -> int:
        """Of a blob that it holds, in bytes."""
        return self._places[digest].size

    def read(self, digest: Digest, *, limit: int) -> bytes:
        """All of a blob that it holds. Raises BadLayout where that is more than `limit` bytes."""
        if self.size_of(digest) > limit:
            raise BadLayout(f"{digest} is called a manifest, and has {self.size_of(digest)} bytes")
        return b"".join(self.chunks(digest))

    def chunks(self, name: Digest | str) -> Iterator[bytes]:
        """The content of a blob that it holds, in pieces."""
        place = self._places[name]
        self._file.seek(place.start)
        left = place.size
        while left:
            piece = self._file.read(min(left, _CHUNK))
            if not piece:
                raise BadLayout("the file has become shorter meanwhile")
            left -= len(piece)
            yield piece

    def _read_file(self, name: str) -> bytes:
        place = self._places.get(name)
        if place is None:
            raise BadLayout(f"it is no OCI image layout: it has no {name}")
        if place.size > _LONGEST_INDEX:
            raise BadLayout(f"its {name} has {place.size} bytes")
        return b"".join(self.chunks(name))


class _Headers(io.RawIOBase):
    """The file as `tarfile` sees it: of each member it reads what a header needs."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._allowance = 0

    def allow(self) -> None:
        """The next member's headers may be read."""
        self._allowance = _LONGEST_HEADER

    def read(self, size: int = -1) -> bytes:
        """As a file's, within the allowance."""
        if not 0 <= size <= self._allowance:
            raise BadLayout("a header in it is larger than any needs to be")
        self._allowance -= size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As a file's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()


def _members(file: BinaryIO, size: int) -> Iterator[tuple[str | Digest, _Place]]:
    """What stands where, of what belongs to a layout."""
    headers = _Headers(file)
    headers.allow()
    with tarfile.TarFile(fileobj=headers, mode="r", errorlevel=2) as tar:
        count, seen = 0, set[str | Digest]()
        while (member := _next(tar, headers)) is not None:
            count += 1
            if count > _MOST_MEMBERS:
                raise BadLayout(f"there are more than {_MOST_MEMBERS} files in it")
            name = _name_of(member, size)
            if name is None:
                continue
            if name in seen:
                raise BadLayout(f"{name} is in it twice")
            seen.add(name)
            yield name, _Place(member.offset_data, member.size)


def _next(tar: tarfile.TarFile, headers: _Headers) -> tarfile.TarInfo | None:
    headers.allow()
    member = tar.next()
    tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
    return member


def _name_of(member: tarfile.TarInfo, size: int) -> str | Digest | None:
    """What a member is to a layout; None: nothing. Raises BadLayout."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise BadLayout(f"{member.name[:200]!r} in it leads out of it")
    if path.name == _OF_DOCKER:
        raise BadLayout(
            "it is what docker save made before Docker 25, and no OCI image layout: skopeo copy"
            " docker-archive:FILE oci-archive:BUNDLE:docker.io/library/NAME:TAG makes one of it"
        )
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        raise BadLayout(f"{member.name[:200]!r} in it is a link, a device, or has holes")
    if not 0 <= member.size <= size - member.offset_data:
        raise BadLayout(
            f"it is cut off, or lies: {member.name[:200]!r} in it would have {member.size} bytes"
        )
    if member.isdir():
        return None
    name = str(path)
    return name if name in _FILES else parse_blob_path(name)


def header(name: str, size: int) -> bytes:
    """What stands before a file of so many bytes in a tar, always the same for the same."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """What stands behind a file of so many bytes."""
    return bytes(-size % _BLOCK)


def end() -> bytes:
    """What stands at the end."""
    return _END
