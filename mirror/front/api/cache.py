"""What a worker has been told lately, and may tell again without asking.

A manifest by its digest and a small blob for as long as there is room, a tag for as long as it is
fresh: by the mirror's own word (`ManifestAnswer.good_until`), so that no worker believes a tag for
longer than the mirror itself does; and all of it until the mirror has it forgotten.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cachetools import LRUCache

from mirror.oci.digest import Digest
from mirror.oci.reference import Reference, Repository
from mirror.pull.answers import HIT, ManifestAnswer
from mirror.pull.forget import Forgettable, Moved, TagOf

_OVERHEAD = 1024  # bytes that an entry costs beyond its content
_MANIFEST, _BLOB = True, False  # the same digest may be asked for as either


class Cache:
    """Answers of the mirror; `size` in bytes bounds them. `clock`: seconds since the epoch.

    An answer is kept under the `generation` in which it was asked for: what was forgotten meanwhile
    may be what it holds.
    """

    def __init__(self, size: int, *, clock: Callable[[], float]) -> None:
        self.generation = 0
        self._clock = clock
        self._answers: LRUCache[_Key, _Kept | bytes] = LRUCache(size, getsizeof=_size)
        self._used: set[Digest] = set()

    def find_manifest(self, repository: Repository, reference: Reference) -> ManifestAnswer | None:
        """A hit, while it is good."""
        kept = self._answers.get((repository, reference, _MANIFEST))
        # What was kept in the future, the clock was set back under: ask.
        if not isinstance(kept, _Kept) or not kept.since <= self._clock() < kept.until:
            return None
        self._used.add(kept.answer.manifest.digest)
        return kept.answer

    def keep_manifest(
        self, repository: Repository, reference: Reference, answer: ManifestAnswer, generation: int
    ) -> None:
        """Remember an answer, for as long as it is good."""
        now = self._clock()
        if answer.good_until > now:
            kept = _Kept(replace(answer, outcome=HIT), now, answer.good_until)
            self._keep((repository, reference, _MANIFEST), kept, generation)

    def find_blob(self, repository: Repository, digest: Digest) -> bytes | None:
        """The content of a small blob."""
        content = self._answers.get((repository, digest, _BLOB))
        if not isinstance(content, bytes):
            return None
        self._used.add(digest)
        return content

    def keep_blob(
        self, repository: Repository, digest: Digest, content: bytes, generation: int
    ) -> None:
        """Remember a small blob."""
        self._keep((repository, digest, _BLOB), content, generation)

    def forget(self, what: Forgettable) -> None:
        """Drop what is remembered of it; what has been asked for until now will not be kept."""
        self.generation += 1
        for key in [*self._holding(what)]:
            del self._answers[key]

    def clear(self) -> None:
        """Forget everything."""
        self.generation += 1
        self._answers.clear()

    def take_used(self) -> set[Digest]:
        """What has been found here since the last time: to evict it would be a mistake."""
        used, self._used = self._used, set()
        return used

    def _keep(self, key: "_Key", entry: "_Kept | bytes", generation: int) -> None:
        if generation == self.generation and _size(entry) <= self._answers.maxsize:
            self._answers[key] = entry

    def _holding(self, what: Forgettable) -> Iterator["_Key"]:
        """The keys of what it is in. Forgetting is rare: no index is kept for it."""
        for key, entry in self._answers.items():
            if _holds(key, entry, what):
                yield key


def _holds(key: "_Key", entry: "_Kept | bytes", what: Forgettable) -> bool:
    repository, reference, _ = key
    match what:
        case Repository():
            return repository == what
        case TagOf() | Moved():
            return repository == what.repository and reference == what.name
        case Digest():
            found = entry.answer.manifest.digest if isinstance(entry, _Kept) else reference
            return found == what


_Key = tuple[Repository, Reference, bool]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A manifest, good from `since` to `until`: seconds since the epoch."""

    answer: ManifestAnswer
    since: float
    until: float


def _size(entry: _Kept | bytes) -> int:
    content = entry.answer.manifest.content if isinstance(entry, _Kept) else entry
    return len(content) + _OVERHEAD
