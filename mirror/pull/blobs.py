"""Pulls of blobs: from memory, from disk, from a fill, or straight through.

    linked to the repository   on disk   answer
    yes                        yes       hit
    yes                        no        fill (miss), or the running fill (joined)
    no                         yes       upstream confirms by one HEAD, then hit (linked)
    no                         no        fill; its start is upstream's confirmation
    no                         coming    joined, once upstream has confirmed by one HEAD

Knowing a digest is no permission: without a link nothing is served before upstream has agreed.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from mirror.oci.digest import Digest
from mirror.pull.answers import HIT, JOINED, LINKED, MISS, STORED, BlobAnswer, Outcome, WholeFile
from mirror.pull.fill import Fill
from mirror.pull.fills import Fills
from mirror.pull.keeping import try_to_open
from mirror.pull.links import Links
from mirror.pull.memory import SMALL, Memory
from mirror.pull.passthrough import PassThrough
from mirror.store.blobs import BlobFile
from mirror.store.errors import StoreError
from mirror.store.store import Store
from mirror.telemetry.log import fields
from mirror.upstream.endpoint import Source
from mirror.upstream.registry import Registry

_logger = logging.getLogger(__name__)


class Blobs:
    """Answers pulls of blobs."""

    def __init__(
        self,
        store: Store,
        memory: Memory,
        links: Links,
        fills: Fills,
        registries: Mapping[str, Registry],
    ) -> None:
        self._store = store
        self._memory = memory
        self._links = links
        self._fills = fills
        self._registries = registries

    async def head(self, source: Source, digest: Digest) -> BlobAnswer:
        """The size of a blob, without transferring it.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        size = await self._links.find_size(source.repository, digest)
        if size is not None:
            return BlobAnswer(digest, size, None, HIT)
        size = await self._links.confirm_blob(source, digest)
        async with self._find(digest) as found:
            return BlobAnswer(digest, size, None, MISS if found is None else LINKED)

    @asynccontextmanager
    async def open(self, source: Source, digest: Digest) -> AsyncIterator[BlobAnswer]:
        """Open a blob for reading.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        size = await self._links.find_size(source.repository, digest)
        async with self._find(digest) as found:
            if found is not None:
                if size is None:
                    await self._links.confirm_blob(source, digest)
                yield await self._stored(digest, found, LINKED if size is None else HIT)
                return
        async with self._fill(source, digest, size) as answer:
            yield answer

    @asynccontextmanager
    async def _find(self, digest: Digest) -> AsyncIterator[bytes | BlobFile | None]:
        """A blob in memory or on disk; inside the block it is in use, and stays."""
        content = self._memory.find_blob(digest)
        if content is not None:
            self._store.note_access(digest)
            yield content
            return
        blob = await try_to_open(self._store, digest)
        try:
            yield blob
        finally:
            if blob is not None:
                blob.close()

    async def _stored(
        self, digest: Digest, found: bytes | BlobFile, outcome: Outcome
    ) -> BlobAnswer:
        """What is small is from memory the next time."""
        if isinstance(found, BlobFile):
            if found.size > SMALL:
                return BlobAnswer(digest, found.size, WholeFile(found.file, found.size), outcome)
            found = await self._store.blobs.read(found)
            self._memory.keep(digest, found)
        return BlobAnswer(digest, len(found), found, outcome)

    @asynccontextmanager
    async def _fill(
        self, source: Source, digest: Digest, size: int | None
    ) -> AsyncIterator[BlobAnswer]:
        outcome = JOINED if self._fills.is_running(digest) else STORED
        try:
            with self._memory.remembering_missing(source, f"blob {digest}"):
                fill = await self._fills.join(source, digest, size)
        except StoreError as error:
            _logger.info("not kept: %s", error, extra=fields(digest=digest, size=size))
            async with self._pass_through(source, digest) as answer:
                yield answer
            return
        try:
            if size is None:
                await self._link(source, fill)
            yield BlobAnswer(digest, fill.size, fill, outcome)
        finally:
            fill.leave()

    async def _link(self, source: Source, fill: Fill) -> None:
        """See that upstream lets the repository have the blob, and remember it."""
        if fill.source.repository != source.repository:
            await self._links.confirm_blob(source, fill.digest)
        elif fill.size is not None:  # upstream has begun to send the blob to this repository
            await self._links.record(source.repository, fill.digest, fill.size)

    @asynccontextmanager
    async def _pass_through(self, source: Source, digest: Digest) -> AsyncIterator[BlobAnswer]:
        registry = self._registries[source.repository.namespace]
        async with registry.open_blob(source, digest, 0, None) as body:
            yield BlobAnswer(digest, body.size, PassThrough(digest, body, registry), MISS)
