"""What operators decide about images that are kept: in the API's words, on any mirror or store."""

from collections.abc import Mapping

from mirror.config import Upstream, aliases_of, make_pin
from mirror.control import acts
from mirror.oci.image import Image, name_of, parse_image
from mirror.oci.reference import Tag
from mirror.pull.collecting import Collecting
from mirror.pull.not_done import NotDone
from mirror.pull.pins import Pinned, Pinning
from mirror.pull.removal import Removal
from mirror.storage.ports import PinningStorage


class Keeping:
    """Every method raises NotDone (`NothingHere`), ValueError and StoreError: see `mirror.pull`."""

    def __init__(
        self,
        *,
        upstreams: Mapping[str, Upstream],
        store: PinningStorage,
        pinning: Pinning,
        removal: Removal,
        collecting: Collecting,
    ) -> None:
        self._upstreams = upstreams
        self._store = store
        self._pinning = pinning
        self._removal = removal
        self._collecting = collecting

    async def list_pins(self) -> acts.Pins:
        """All of them."""
        return acts.Pins(pins=[await self._pin(one) for one in self._pinning.list_pinned()])

    async def pin(self, wanted: acts.ToPin) -> acts.Pins:
        """Pin one; all that are pinned then."""
        pin = make_pin(wanted.image, wanted.platforms, wanted.refresh, self._upstreams)
        await self._pinning.add(pin)
        return await self.list_pins()

    async def unpin(self, wanted: acts.ImageName) -> acts.Pins:
        """Pin one no longer; all that are pinned then."""
        await self._pinning.remove(name_of(*self._parse(wanted.image)))
        return await self.list_pins()

    async def remove(self, wanted: acts.ImageName) -> acts.Removed:
        """Remove an image."""
        gone = await self._removal.remove(*self._parse(wanted.image))
        return acts.Removed(
            image=wanted.image, tags=list(gone.tags), blobs=gone.blobs, bytes=gone.size,
            kept=gone.kept,
        )  # fmt: skip

    async def forget_tag(self, wanted: acts.ImageName) -> acts.ImageName:
        """Have upstream asked anew what a tag means; the image that it meant, by digest."""
        repository, reference = self._parse(wanted.image)
        if not isinstance(reference, Tag):
            raise NotDone(f"{wanted.image} is no tag: what a digest means never changes")
        its = self._upstreams.get(repository.namespace)
        if its is not None and its.sealed:
            raise NotDone(f"{repository.namespace} is sealed: nobody can be asked what it means")
        digest = await self._removal.forget_tag(repository, reference)
        return acts.ImageName(image=f"{repository}@{digest}")

    async def collect(self, wanted: acts.ToCollect) -> acts.Collected:
        """Have go what nothing on record names any more."""
        gone = await self._collecting.collect(is_dry=wanted.dry_run)
        return acts.Collected(
            dry_run=wanted.dry_run, blobs=gone.blobs, bytes=gone.size, records=gone.records,
            partials=gone.partials, partial_bytes=gone.partial_size,
            quarantine_bytes=gone.quarantine_size, database_bytes=gone.database_size,
        )  # fmt: skip

    def _parse(self, image: str) -> Image:
        """What an image's name means here. Raises ValueError."""
        return parse_image(image, aliases_of(self._upstreams))

    async def _pin(self, pinned: Pinned) -> acts.Pin:
        digests = self._store.pins.of(pinned.pin.name)
        return acts.Pin(
            image=pinned.pin.name, platforms=list(pinned.pin.platforms),
            refresh=pinned.pin.refresh, source=pinned.source, state=pinned.state.value,
            trouble=pinned.trouble, blobs=len(digests),
            bytes=(await self._store.measure(digests)).bytes,
        )  # fmt: skip
