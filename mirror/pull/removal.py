"""Removing an image by command: what its tag means is forgotten, and so is all that only it needs.

    of what the image consists of                        its link to the     its bytes
                                                         repository
    another tag, or a manifest of the repository that    stays               stay
    stays, leads to it
    another repository is linked to it, or it is pinned  goes                stay
    anything else                                        goes                go

Who reads it already keeps the open file. No worker serves it any more; whoever asks for it again
has upstream asked.
"""

from collections.abc import Collection
from dataclasses import dataclass

from mirror.oci.digest import Digest
from mirror.oci.image import name_of
from mirror.oci.reference import Reference, Repository, Tag
from mirror.pull.content import list_content
from mirror.pull.forget import Forgetting, TagOf
from mirror.pull.not_done import NotDone, NothingHere
from mirror.records.ports import Records
from mirror.storage.ports import RemovingStorage

_MOST = 100_000  # pairs of a manifest and what it names


@dataclass(frozen=True, slots=True)
class Removed:
    """What has gone; sizes in bytes."""

    tags: tuple[str, ...]
    blobs: int = 0
    size: int = 0
    kept: int = 0  # blobs that something else needs


class Removal:
    """Removes. All methods raise StoreError where the disk or the records refuse."""

    def __init__(self, store: RemovingStorage, records: Records, forgetting: Forgetting) -> None:
        self._store = store
        self._records = records
        self._forgetting = forgetting

    async def forget_tag(self, repository: Repository, tag: Tag) -> Digest:
        """Have upstream asked anew what a tag means; what it meant stays.

        Raises:
            NothingHere: Nobody has asked for it yet.
        """
        record = await self._records.find_tag(repository, tag.name)
        if record is None:
            raise NothingHere(f"{repository}:{tag}: what it means is not known here")
        await self._records.forget_tag(repository, tag.name)
        self._forgetting.forget(TagOf(repository, tag))
        return record.digest

    async def remove(self, repository: Repository, reference: Reference) -> Removed:
        """Remove an image; by its digest, with all tags that mean it.

        Raises:
            NothingHere: Nothing is known of it.
            NotDone: It is pinned.
        """
        content = await list_content(self._records, repository, reference)
        root = content[0] if content else None
        if root is None or not await self._is_known(repository, root):
            raise NothingHere(f"{name_of(repository, reference)}: nothing of it is here")
        tags = await self._tags(repository, reference, root)
        for one in {reference, *map(Tag, tags)}:
            if self._store.pins.of(name_of(repository, one)):
                raise NotDone(f"{name_of(repository, one)} is pinned: unpin it first")
        for tag in tags:
            await self._records.forget_tag(repository, tag)
        kept = await self._still_needed(repository, content)
        unlinked = [digest for digest in content if digest not in kept]
        await self._records.forget_links(repository, unlinked)
        linked = await self._records.count_links(unlinked)
        gone = await self._store.find_stored([it for it in unlinked if it not in linked])
        totals = await self._store.measure(gone)
        stored = await self._store.find_stored(content)
        await self._store.remove(gone)
        self._forgetting.forget(repository)
        left = await self._store.find_stored(list(gone))
        size = totals.bytes - (await self._store.measure(left)).bytes
        return Removed(tuple(tags), len(gone - left), size, len(stored) - len(gone - left))

    async def _is_known(self, repository: Repository, root: Digest) -> bool:
        link = await self._records.find_link(repository, root)
        return link is not None or bool(await self._records.list_tags_of(repository, root))

    async def _tags(self, repository: Repository, reference: Reference, root: Digest) -> list[str]:
        if isinstance(reference, Tag):
            return [reference.name]
        return await self._records.list_tags_of(repository, root)

    async def _still_needed(
        self, repository: Repository, content: Collection[Digest]
    ) -> set[Digest]:
        """What of this other tags or manifests of the repository lead to."""
        pairs = await self._records.list_parents(content, limit=_MOST)
        others = {parent for parent, _ in pairs}.difference(content)
        linked = {it for it in others if await self._records.find_link(repository, it) is not None}
        needed = {child for parent, child in pairs if parent in linked}
        needed |= {it for it in content if await self._records.list_tags_of(repository, it)}
        level = needed
        while level:
            edges = await self._records.list_edges(level, limit=_MOST)
            level = {child for _, child in edges} - needed
            needed = needed | level
        return needed
