"""What a worker has been told lately, and may tell again without asking.

A manifest by its digest and a small blob for as long as there is room, a tag for as long as it is
fresh: by the mirror's own word (`ManifestAnswer.good_until`), so that no worker believes a tag for
longer than the mirror itself does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from cachetools import LRUCache

from mirror.oci.digest import Digest
from mirror.oci.reference import Reference
from mirror.pull.answers import HIT, ManifestAnswer
from mirror.pull.routing import Route

_OVERHEAD = 1024  # bytes that an entry costs beyond its content
_MANIFEST, _BLOB = True, False  # the same digest may be asked for as either


class Near:
    """Answers at hand; `size` in bytes bounds them. `clock`: seconds since the epoch."""

    def __init__(self, size: int, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: LRUCache[_Key, _Kept | bytes] = LRUCache(size, getsizeof=_size)
        self._used: set[Digest] = set()

    def find_manifest(self, route: Route, reference: Reference) -> ManifestAnswer | None:
        """A hit, while it is good."""
        kept = self._answers.get((route, reference, _MANIFEST))
        # What was kept in the future, the clock was set back under: ask.
        if not isinstance(kept, _Kept) or not kept.since <= self._clock() < kept.until:
            return None
        self._used.add(kept.answer.manifest.digest)
        return kept.answer

    def keep_manifest(self, route: Route, reference: Reference, answer: ManifestAnswer) -> None:
        """Remember an answer, for as long as it is good; see `keep_blob`."""
        now = self._clock()
        if answer.good_until > now and route.access == "mirror":
            kept = _Kept(replace(answer, outcome=HIT), now, answer.good_until)
            self._keep((route, reference, _MANIFEST), kept)

    def find_blob(self, route: Route, digest: Digest) -> bytes | None:
        """The content of a small blob."""
        content = self._answers.get((route, digest, _BLOB))
        if not isinstance(content, bytes):
            return None
        self._used.add(digest)
        return content

    def keep_blob(self, route: Route, digest: Digest, content: bytes) -> None:
        """Remember a small blob, unless each client's own authorization decides who gets it."""
        if route.access == "mirror":
            self._keep((route, digest, _BLOB), content)

    def take_used(self) -> set[Digest]:
        """What has been found here since the last time: to evict it would be a mistake."""
        used, self._used = self._used, set()
        return used

    def _keep(self, key: "_Key", entry: "_Kept | bytes") -> None:
        if _size(entry) <= self._answers.maxsize:
            self._answers[key] = entry


_Key = tuple[Route, Reference, bool]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A manifest, good from `since` to `until`: seconds since the epoch."""

    answer: ManifestAnswer
    since: float
    until: float


def _size(entry: _Kept | bytes) -> int:
    content = entry.answer.manifest.content if isinstance(entry, _Kept) else entry
    return len(content) + _OVERHEAD
