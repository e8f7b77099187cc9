"""Prefetch: begin what a client is about to ask for, when it has been given a manifest.

The layers of an image's manifest follow it for certain. Of an index, only those platforms are
fetched that clients of this mirror have asked for before: nobody's link is spent on the others.
Whatever a client waits for goes first.
"""

import logging
from collections.abc import Iterable, Mapping

from cachetools import LRUCache

from mirror.aio.reading import read_aside
from mirror.aio.tasks import Starter
from mirror.oci.descriptor import Descriptor, Platform
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError
from mirror.oci.manifest import INDEX_TYPES, parse_references
from mirror.pull.fill.fills import Fills
from mirror.pull.keeping import try_to_open
from mirror.pull.manifests import Manifests
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.ports import Storage
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_REMEMBERED = 16384  # entries of indexes
_SEEN = 64  # platforms


class Prefetch:
    """Looks at the manifests that are served; its work belongs to `tasks`."""

    def __init__(
        self,
        fills: Fills,
        manifests: Manifests,
        store: Storage,
        registries: Mapping[str, Registry],
        *,
        tasks: Starter,
    ) -> None:
        self._fills = fills
        self._manifests = manifests
        self._store = store
        self._registries = registries
        self._tasks = tasks
        self._platforms: LRUCache[Digest, Platform] = LRUCache(_REMEMBERED)
        self._seen: LRUCache[Platform, None] = LRUCache(_SEEN)

    def note(self, scope: Scope, digest: Digest) -> None:
        """A client has been given this manifest."""
        if (platform := self._platforms.get(digest)) is not None:
            self._seen[platform] = None
        _ = self._tasks.create_task(self._follow(scope, digest), name="prefetch")

    async def _follow(self, scope: Scope, digest: Digest) -> None:
        try:
            manifest = (await self._manifests.get_by_digest(scope, digest)).manifest
            references = await read_aside(parse_references, manifest.content)
            if manifest.media_type in INDEX_TYPES:
                await self._fetch_manifests(scope, references.manifests)
            else:
                await self._fetch_blobs(scope, references.blobs)
        except RegistryError as error:
            # The client will ask for itself, and be told.
            _logger.debug("not prefetched: %s", error, extra=fields(repository=scope.repository))

    async def _fetch_manifests(self, scope: Scope, entries: Iterable[Descriptor]) -> None:
        for entry in entries:
            if entry.platform is None:
                continue
            self._platforms[entry.digest] = entry.platform
            if entry.platform in self._seen:
                answer = await self._manifests.get_by_digest(scope, entry.digest)
                await self._fetch_blobs(
                    scope, (await read_aside(parse_references, answer.manifest.content)).blobs
                )

    async def _fetch_blobs(self, scope: Scope, blobs: Iterable[Descriptor]) -> None:
        source = self._registries[scope.repository.namespace].blobs(scope)
        for blob in blobs:
            if blob.is_foreign:
                continue  # it is had from elsewhere
            stored = await try_to_open(self._store, blob.digest)
            if stored is None:
                self._fills.prefetch(source, blob.digest, blob.size)
            else:
                stored.close()  # and it counts as used: it is about to be
