"""The files of complete blobs that are open: one for each blob, however many read it.

    a blob's file is   while                                    next
    being opened       somebody has begun to, and others wait   read, or there is none
    read               it has readers                           pooled
    pooled             it waits for the next reader             read, closed

One that another file has taken the place of is closed by its last reader: it takes room on the disk
that nobody counts. A blob that leaves is none of this any more, whoever reads it: its file is
closed by the last of them, and what comes of an opening that is under way means nothing. Pure: what
a method returns is to be closed.
"""

from collections import OrderedDict
from collections.abc import Callable
from io import FileIO

from mirror.oci.digest import Digest
from mirror.storage.under_way import Change

MOST_POOLED = 128  # open files that nobody reads from, kept for the next reader


class Opening(Change):
    """A blob's file is being opened, for everyone who asks meanwhile.

    Afterwards `has_outcome` says whether it came to one: the file (`OpenFiles.take`), or none. Else
    whoever waited tries again.
    """

    def __init__(self, digest: Digest) -> None:
        super().__init__()
        self.digest = digest
        self.has_outcome = False


class BlobFile:
    """An open file that any number of readers share; `close` once per reader."""

    __slots__ = ("_release", "digest", "file", "is_replaced", "readers", "size")

    def __init__(
        self, digest: Digest, file: FileIO, size: int, release: Callable[["BlobFile"], None]
    ) -> None:
        self.digest = digest
        self.file = file
        self.size = size
        self.readers = 0
        self.is_replaced = False
        self._release = release

    def __repr__(self) -> str:
        return f"<BlobFile {self.digest}: {self.size} bytes, {self.readers} readers>"

    def close(self) -> None:
        """Say that one reader is done."""
        self._release(self)


class OpenFiles:
    """Those that are read or being opened, and the pool of those that are not."""

    def __init__(self, *, most_pooled: int = MOST_POOLED) -> None:
        self._openings: dict[Digest, Opening] = {}
        self._read: dict[Digest, BlobFile] = {}
        self._pool: OrderedDict[Digest, BlobFile] = OrderedDict()  # least recently used first
        self._most_pooled = most_pooled

    def __repr__(self) -> str:
        return f"<OpenFiles: {len(self._read)} read, {len(self._pool)} pooled>"

    def take(self, digest: Digest) -> BlobFile | None:
        """One more reader of a file that is open already; None where it is not."""
        blob = self._read.get(digest)
        if blob is None:
            blob = self._pool.pop(digest, None)
            if blob is None:
                return None
            self._read[digest] = blob
        blob.readers += 1
        return blob

    def find_opening(self, digest: Digest) -> Opening | None:
        """The opening of the blob's file that is under way."""
        return self._openings.get(digest)

    def begin_opening(self, digest: Digest) -> Opening:
        """The blob's file is going to be opened; until that has ended it is in use."""
        assert digest not in self._openings  # noqa: S101 - callers have asked `find_opening`
        opening = self._openings[digest] = Opening(digest)
        return opening

    def end_opening(self, opening: Opening, blob: BlobFile | None, *, has_outcome: bool) -> bool:
        """The file is open, and read once, or there is none; `has_outcome`: that is known.

        False: the blob was dropped, or committed anew, meanwhile. What was found means nothing.
        """
        is_so = self._openings.get(opening.digest) is opening
        if is_so:
            del self._openings[opening.digest]
            if blob is not None:
                blob.readers = 1
                self._read[opening.digest] = blob
            opening.has_outcome = has_outcome
        opening.end()
        return is_so

    def release(self, blob: BlobFile) -> list[BlobFile]:
        """A reader is done. The file is pooled for the next one."""
        blob.readers -= 1
        if blob.readers:
            return []
        if self._read.get(blob.digest) is not blob:
            return [blob]  # the blob was dropped while it was read
        del self._read[blob.digest]
        if blob.is_replaced:
            return [blob]
        self._pool[blob.digest] = blob
        return self._shrink_pool(self._most_pooled)

    def close_pool(self) -> list[BlobFile]:
        """Pool nothing any more."""
        self._most_pooled = 0
        return self._shrink_pool(0)

    def is_in_use(self, digest: Digest) -> bool:
        """Whether the blob is read, or about to be."""
        return digest in self._read or digest in self._openings

    def are_in_use(self) -> bool:
        """Whether any blob is."""
        return bool(self._read or self._openings)

    def list_in_use(self) -> list[Digest]:
        """The blobs that are."""
        return list({*self._read, *self._openings})

    def replace(self, digest: Digest) -> list[BlobFile]:
        """Another file has taken its place: who reads the old one goes on, and shares it."""
        self._openings.pop(digest, None)
        if digest in self._read:
            self._read[digest].is_replaced = True
        pooled = self._pool.pop(digest, None)
        return [] if pooled is None else [pooled]

    def drop(self, digest: Digest) -> list[BlobFile]:
        """The blob is here for nobody any more; who reads it keeps the file."""
        self._read.pop(digest, None)
        return self.replace(digest)

    def _shrink_pool(self, most: int) -> list[BlobFile]:
        closing = []
        while len(self._pool) > most:
            _, blob = self._pool.popitem(last=False)
            closing.append(blob)
        return closing
