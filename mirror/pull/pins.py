"""Pins: images that are here before anybody asks, follow their tag, and are never evicted.

    what is known of the image's new version          then
    all pins together would be larger than the store  it is refused; the version before stays pinned
    something of it is not here                       it is pinned, and the version before too, as
                                                      far as there is room for both; it is fetched
    all of it is here                                 it is pinned, and the version before is not

What is fetched for a pin goes after whatever a client waits for. While upstream cannot be asked,
what is here stays pinned. One that is not complete is tried again sooner.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from mirror.aio.backoff import Backoff
from mirror.aio.reading import read_aside
from mirror.config import Pin
from mirror.config.units import format_size
from mirror.oci.descriptor import Platform
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, RegistryError, StoreError
from mirror.oci.manifest import Manifest, parse_references
from mirror.oci.reference import Tag
from mirror.pull.content import list_content
from mirror.pull.fill.fills import Fills
from mirror.pull.manifests import Manifests
from mirror.records.ports import Records
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.ports import PinningStorage
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics, PinState

_logger = logging.getLogger(__name__)

_AGAIN = Backoff(first=60.0, most=3600.0)
_DEEPEST = 4  # indexes in indexes
_MOST = 10_000  # blobs of an image; anybody may write a manifest


@dataclass(slots=True)
class _Version:
    """What a pinned image consists of at the moment: sizes in bytes, by manifests' words."""

    sizes: dict[Digest, int] = field(default_factory=dict)
    blobs: dict[Digest, int] = field(default_factory=dict)  # what of it is no manifest


class Pinning:
    """Follows the pinned images, one after the other."""

    def __init__(
        self,
        pins: Sequence[Pin],
        *,
        store: PinningStorage,
        records: Records,
        manifests: Manifests,
        fills: Fills,
        registries: Mapping[str, Registry],
        metrics: Metrics,
        random: Random,
    ) -> None:
        self._pins = pins
        self._store = store
        self._records = records
        self._manifests = manifests
        self._fills = fills
        self._registries = registries
        self._metrics = metrics
        self._random = random
        self._sizes: dict[str, dict[Digest, int]] = {}
        self._whole: dict[str, frozenset[Digest]] = {}
        self._states: dict[str, PinState] = {}

    async def begin(self) -> None:
        """See that what is here is pinned, before anything can be evicted. Raises StoreError."""
        pins = self._store.pins
        for image in set(pins.list_images()) - {pin.name for pin in self._pins}:
            await pins.pin(image, ())
        for pin in self._pins:
            if not pins.of(pin.name):  # a new one, or the index was lost
                content = await list_content(self._records, pin.repository, pin.reference)
                await pins.pin(pin.name, await self._store.find_stored(content))
            self._whole[pin.name] = pins.of(pin.name)
            self._note(pin, PinState.INCOMPLETE)

    async def follow_forever(self, pin: Pin) -> None:
        """Follow one of them."""
        failures = 0
        while True:
            state = await self.refresh(pin)
            self._note(pin, state)
            failures = 0 if state is not PinState.INCOMPLETE else failures + 1
            again = _AGAIN.delay(failures, roll=self._random.random()) if failures else pin.refresh
            await asyncio.sleep(min(again, pin.refresh))

    async def refresh(self, pin: Pin) -> PinState:
        """Ask what the image is now, and have all of it here."""
        try:
            version = await self._find_version(pin)
            if not self._fits(pin, version):
                return PinState.REFUSED
            return await self._have(pin, version)
        except RegistryError as error:
            _logger.warning("pin not refreshed: %s", error, extra=fields(image=pin.name))
            return PinState.INCOMPLETE

    async def _find_version(self, pin: Pin) -> _Version:
        scope, version = Scope(pin.repository), _Version()
        if isinstance(pin.reference, Tag):
            answer = await self._manifests.get_by_tag(scope, pin.reference)
        else:
            answer = await self._manifests.get_by_digest(scope, pin.reference)
        await self._add(version, scope, answer.manifest, pin.wanted, _DEEPEST)
        return version

    async def _add(
        self,
        version: _Version,
        scope: Scope,
        manifest: Manifest,
        platforms: Sequence[Platform],
        depth: int,
    ) -> None:
        version.sizes[manifest.digest] = manifest.size
        if len(version.sizes) > _MOST:
            raise RegistryError(ErrorCode.MANIFEST_INVALID, f"it names more than {_MOST} blobs")
        references = await read_aside(parse_references, manifest.content)
        for blob in references.blobs:
            if not blob.is_foreign:
                version.sizes[blob.digest] = version.blobs[blob.digest] = blob.size
        for entry in references.manifests if depth else ():
            if entry.digest not in version.sizes and entry.is_for(platforms):
                answer = await self._manifests.get_by_digest(scope, entry.digest)
                await self._add(version, scope, answer.manifest, platforms, depth - 1)

    def _fits(self, pin: Pin, version: _Version) -> bool:
        others: dict[Digest, int] = {}
        for name, sizes in self._sizes.items():
            if name != pin.name:
                others |= sizes
        size = sum((others | version.sizes).values())
        if size <= self._store.capacity:
            self._sizes[pin.name] = version.sizes
            return True
        if self._states.get(pin.name) is not PinState.REFUSED:
            _logger.error(
                "pin refused: %s has %s, and with all other pins that would be %s, of the %s that"
                " store.max_size leaves: raise that, name fewer platforms, or pin less",
                pin.name, format_size(sum(version.sizes.values())), format_size(size),
                format_size(self._store.capacity),
            )  # fmt: skip
        return False

    async def _have(self, pin: Pin, version: _Version) -> PinState:
        pins, new = self._store.pins, frozenset(version.sizes)
        before = self._whole[pin.name]
        both = await self._store.measure(before | new)
        stored = await self._store.find_stored(list(version.blobs))
        missing = [digest for digest in version.blobs if digest not in stored]
        more = sum(version.blobs[digest] for digest in missing)
        has_room = both.bytes + more <= self._store.capacity
        await pins.pin(pin.name, before | new if has_room else new)
        source = self._registries[pin.repository.namespace].blobs(Scope(pin.repository))
        for digest in missing:
            await self._fills.fetch(source, digest, version.blobs[digest])
        lacking = new - await self._store.find_stored(list(new))
        if lacking:
            raise StoreError(f"{len(lacking)} of its {len(new)} blobs could not be kept")
        await pins.pin(pin.name, new)
        if before != new or missing:
            self._whole[pin.name] = new
            _logger.info(
                "pinned", extra=fields(image=pin.name, blobs=len(new), fetched=len(missing))
            )
        return PinState.COMPLETE

    def _note(self, pin: Pin, state: PinState) -> None:
        self._states[pin.name] = state
        states = list(self._states.values())
        for one in PinState:
            self._metrics.pins.labels(one).set(states.count(one))
