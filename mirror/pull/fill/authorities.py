"""Whose authority a fill is on: the sources that its readers have brought. Pure.

Each who joins adds a source of their own. The first is used until it is refused; then the next is.
None ever replaces another, and each refusal is told to whoever brought that source, and to nobody
else as long as another source is left.
"""

from mirror.oci.errors import Denied, Missing, Refused
from mirror.sources.ports import BlobSource

_MOST = 16  # sources; with more of them refused, something else is wrong


class Authorities:
    """The sources of one fill, in the order in which they came."""

    def __init__(self, first: BlobSource) -> None:
        self._sources = [first]
        self._refusals: dict[BlobSource, Denied | Missing | Refused] = {}
        self._accepted: set[BlobSource] = set()

    def __contains__(self, source: BlobSource) -> bool:
        return source in self._sources or source in self._refusals

    @property
    def current(self) -> BlobSource:
        """Where to ask."""
        return self._sources[0]

    def add(self, source: BlobSource) -> None:
        """One more, unless there are many."""
        if source not in self and len(self._sources) + len(self._refusals) < _MOST:
            self._sources.append(source)

    def note_accepted(self, source: BlobSource) -> None:
        """It has begun to send the blob."""
        self._accepted.add(source)

    def has_accepted(self, source: BlobSource) -> bool:
        """Whether it has ever begun to send the blob: that is upstream's own word."""
        return source in self._accepted

    def refuse(self, source: BlobSource, error: Denied | Missing | Refused) -> None:
        """It has been refused. Raises `error` where no other is left."""
        self._refusals.setdefault(source, error)
        if self._sources == [source]:
            raise error
        if source in self._sources:
            self._sources.remove(source)

    def check(self, source: BlobSource) -> None:
        """Raise what upstream has told whoever brought this source, if it has refused it."""
        if (refusal := self._refusals.get(source)) is not None:
            raise refusal.with_traceback(None)
