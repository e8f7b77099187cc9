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
from mirror.oci.errors import StoreError
from mirror.pull.answers import HIT, JOINED, LINKED, MISS, STORED, BlobAnswer, Outcome, WholeFile
from mirror.pull.fill.fill import Fill
from mirror.pull.fill.fills import Fills
from mirror.pull.keeping import try_to_open, try_to_read
from mirror.pull.links import Links
from mirror.pull.memory import SMALL, Memory
from mirror.pull.passthrough import PassThrough
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.ports import OpenBlob, Storage
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)


class Blobs:
    """Answers pulls of blobs."""

    def __init__(
        self,
        store: Storage,
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

    async def head(self, scope: Scope, digest: Digest) -> BlobAnswer:
        """The size of a blob, without transferring it.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        size = await self._links.find_size(scope.repository, digest)
        if size is not None:
            return BlobAnswer(digest, size, None, HIT)
        size = await self._links.confirm_blob(scope, digest)
        async with self._find(digest) as found:
            return BlobAnswer(digest, size, None, MISS if found is None else LINKED)

    @asynccontextmanager
    async def open(self, scope: Scope, digest: Digest) -> AsyncIterator[BlobAnswer]:
        """Open a blob for reading.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        size = await self._links.find_size(scope.repository, digest)
        async with self._find(digest) as found:
            if found is not None:
                if size is None:
                    await self._links.confirm_blob(scope, digest)
                yield self._stored(digest, found, LINKED if size is None else HIT)
                return
        async with self._fill(scope, digest, size) as answer:
            yield answer

    @asynccontextmanager
    async def _find(self, digest: Digest) -> AsyncIterator[bytes | OpenBlob | None]:
        """A blob in memory or on disk; inside the block it is in use, and stays."""
        content = self._memory.find_blob(digest)
        if content is not None:
            self._store.note_access(digest)
            yield content
            return
        blob = await try_to_open(self._store, digest)
        try:
            if blob is None or blob.size > SMALL:
                yield blob
            else:
                yield await self._read(digest)
        finally:
            if blob is not None:
                blob.close()

    async def _read(self, digest: Digest) -> bytes | None:
        """What is small is from memory the next time."""
        content = await try_to_read(self._store, digest, limit=SMALL)
        if content is not None:
            self._memory.keep(digest, content)
        return content

    def _stored(self, digest: Digest, found: bytes | OpenBlob, outcome: Outcome) -> BlobAnswer:
        if isinstance(found, bytes):
            return BlobAnswer(digest, len(found), found, outcome)
        return BlobAnswer(digest, found.size, WholeFile(found.file, found.size), outcome)

    @asynccontextmanager
    async def _fill(
        self, scope: Scope, digest: Digest, size: int | None
    ) -> AsyncIterator[BlobAnswer]:
        outcome = JOINED if self._fills.is_running(digest) else STORED
        try:
            with self._memory.remembering_missing(scope, f"blob {digest}"):
                fill = await self._fills.join(scope, digest, size)
        except StoreError as error:
            _logger.info("not kept: %s", error, extra=fields(digest=digest, size=size))
            async with self._pass_through(scope, digest) as answer:
                yield answer
            return
        try:
            if size is None:
                await self._link(scope, fill)
            yield BlobAnswer(digest, fill.size, fill, outcome)
        finally:
            fill.leave()

    async def _link(self, scope: Scope, fill: Fill) -> None:
        """See that upstream lets the repository have the blob, and remember it."""
        if fill.scope.repository != scope.repository:
            await self._links.confirm_blob(scope, fill.digest)
        elif fill.size is not None:  # upstream has begun to send the blob to this repository
            await self._links.record(scope.repository, fill.digest, fill.size)

    @asynccontextmanager
    async def _pass_through(self, scope: Scope, digest: Digest) -> AsyncIterator[BlobAnswer]:
        registry = self._registries[scope.repository.namespace]
        async with registry.open_blob(scope, digest, 0, None) as body:
            yield BlobAnswer(digest, body.size, PassThrough(digest, body, registry), MISS)
