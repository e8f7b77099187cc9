"""Tells the storage which blobs are worth less than they seem: it knows no images, the records do.

    superseded   a tag means another image now, and no image that is here, and is still meant, has
                 this in it: newer versions are what will be asked for
    broken       something of each image that has this in it has been evicted: the rest of them
                 serves hardly anybody

Both are worked out in the background, one thing after another, and neither has to be right: it only
says what goes first. So whatever is too large to be looked into is left as it is; anybody may write
a manifest.
"""

import logging
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress

from mirror.aio.tasks import Starter
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.oci.reference import Repository
from mirror.records.ports import Records
from mirror.storage.ports import Storage

_logger = logging.getLogger(__name__)

_MOST_MOVES = 1_000  # tags waiting to be looked into
_MOST_EVICTED = 10_000  # digests; where more go at once, what is broken hardly matters
_BATCH = 50  # digests looked into at a time
_MOST_NAMED = 4_000  # pairs of a manifest and what it names, at a time

_Move = tuple[Repository, Digest | None, Digest]


class _TooMuch(Exception):
    """More than anybody's images have."""


class Images:
    """Looks into the images that something has happened to; its work belongs to `tasks`."""

    def __init__(self, store: Storage, records: Records, *, tasks: Starter) -> None:
        self._store = store
        self._records = records
        self._tasks = tasks
        self._moves: deque[_Move] = deque(maxlen=_MOST_MOVES)
        self._evicted: set[Digest] = set()
        self._is_looking = False

    def note_tag(self, repository: Repository, before: Digest | None, now: Digest) -> None:
        """A tag means another digest than before (None: nobody had asked). It is on record."""
        if before != now:
            self._moves.append((repository, before, now))
            self._begin()

    def note_evicted(self, digests: Sequence[Digest]) -> None:
        """These have gone, to make room."""
        if len(self._evicted) + len(digests) <= _MOST_EVICTED:
            self._evicted.update(digests)
            self._begin()

    def _begin(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            with suppress(RuntimeError):  # too late: the mirror is being taken down
                _ = self._tasks.create_task(self._look(), name="look into images")

    async def _look(self) -> None:
        try:
            while self._moves or self._evicted:
                try:
                    await self._look_into_one()
                except (_TooMuch, StoreError) as error:
                    _logger.debug("images not looked into: %s", error)
        finally:
            self._is_looking = False

    async def _look_into_one(self) -> None:
        if self._moves:
            await self._supersede(*self._moves.popleft())
        else:
            some = [self._evicted.pop() for _ in range(min(_BATCH, len(self._evicted)))]
            await self._break(some)

    # Superseded

    async def _supersede(self, repository: Repository, before: Digest | None, now: Digest) -> None:
        meant = await self._tree([now])
        if before is not None and not await self._records.list_tags_of(repository, before):
            gone = await self._tree([before]) - meant
            gone = await self._meant(gone - await self._still_meant(gone))
            if gone:
                await self._store.note_superseded(gone)
        stored = await self._store.find_stored(list(meant))
        if again := stored - await self._meant(stored):
            await self._store.note_meant(again)

    async def _still_meant(self, gone: Collection[Digest]) -> set[Digest]:
        """What is in other images that are here and not superseded."""
        pairs = await self._parents(gone)
        meant = await self._meant({parent for parent, _ in pairs}.difference(gone))
        return await self._tree({child for parent, child in pairs if parent in meant})

    async def _tree(self, roots: Collection[Digest]) -> set[Digest]:
        """These, and all that they are made of."""
        found, level = set(roots), set(roots)
        while level := {child for _, child in await self._edges(level)} - found:
            found |= level
        return found

    async def _meant(self, digests: Collection[Digest]) -> set[Digest]:
        """Which of these are here, and not superseded."""
        return await self._store.find_meant(list(digests))

    # Broken

    async def _break(self, evicted: Collection[Digest]) -> None:
        images = {parent for parent, _ in await self._parents(evicted)}.union(evicted)
        siblings = {child for _, child in await self._edges(images)}
        stored = list(await self._store.find_stored(list(siblings)))
        for start in range(0, len(stored), _BATCH):
            await self._break_rest(stored[start : start + _BATCH])

    async def _break_rest(self, siblings: Collection[Digest]) -> None:
        """Find which of these are in no image any more that is here in whole."""
        parents = {parent for parent, _ in await self._parents(siblings)}
        edges = await self._edges(parents)
        involved = parents | {child for _, child in edges}
        missing = involved - await self._store.find_stored(list(involved))
        whole = parents - missing - {parent for parent, child in edges if child in missing}
        kept = {child for parent, child in edges if parent in whole}
        # What is in an index is no part of an image: most of its platforms are never here.
        manifests = {parent for parent, _ in await self._edges(siblings)}
        if parts := set(siblings) - kept - manifests:
            await self._store.note_broken(parts)

    # What is on record

    async def _parents(self, digests: Collection[Digest]) -> list[tuple[Digest, Digest]]:
        return _bounded(await self._records.list_parents(digests, limit=_MOST_NAMED))

    async def _edges(self, digests: Collection[Digest]) -> list[tuple[Digest, Digest]]:
        return _bounded(await self._records.list_edges(digests, limit=_MOST_NAMED))


def _bounded(pairs: list[tuple[Digest, Digest]]) -> list[tuple[Digest, Digest]]:
    if len(pairs) >= _MOST_NAMED:
        raise _TooMuch("they are in too many images, or name too much")
    return pairs
