"""What may not be evicted, whether it is here already or not: by the image for whose sake.

It is on record before it counts for less, and counts before it is on record: whatever interrupts a
change, what was pinned before or is pinned after it stays.
"""

from collections import Counter
from collections.abc import Collection

from mirror.oci.digest import Digest
from mirror.storage.index import Index


class Pins:
    """The pinned digests: a collection that eviction asks. Use `Pins.load`."""

    def __init__(self, index: Index, images: dict[str, frozenset[Digest]]) -> None:
        self._index = index
        self._images = images
        self._counts = Counter(digest for digests in images.values() for digest in digests)
        self._changing: Counter[Digest] = Counter()

    @classmethod
    async def load(cls, index: Index) -> "Pins":
        """What is on record. Raises StoreError."""
        return cls(index, await index.list_pins())

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def list_changing(self) -> frozenset[Digest]:
        """Those that may count already, or still, and not be on record as the index has it."""
        return frozenset(self._changing)

    def list_images(self) -> list[str]:
        """The images that anything is pinned for."""
        return list(self._images)

    def of(self, image: str) -> frozenset[Digest]:
        """What is pinned for an image."""
        return self._images.get(image, frozenset())

    async def pin(self, image: str, digests: Collection[Digest]) -> None:
        """From now on these are pinned for an image, and nothing else is; none: it is unpinned.

        Raises:
            StoreError: It cannot be recorded. What was pinned is, and these until the next start.
        """
        before, after = self.of(image), frozenset(digests)
        if before == after:
            return
        changing = Counter(before ^ after)
        self._change(image, before | after)
        self._changing += changing
        await self._index.record_pin(image, after)
        self._change(image, after)
        self._changing -= changing

    def _change(self, image: str, digests: frozenset[Digest]) -> None:
        before = self._images.pop(image, frozenset())
        self._counts.subtract(before - digests)
        self._counts.update(digests - before)
        for digest in before - digests:
            if not self._counts[digest]:
                del self._counts[digest]
        if digests:
            self._images[image] = digests
