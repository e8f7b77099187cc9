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
from mirror.pull.keeping import try_to_open
from mirror.pull.links import Links
from mirror.pull.memory import SMALL, Memory
from mirror.pull.passthrough import passing_through
from mirror.sources.ports import BlobSource
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.files import BlobFile
from mirror.storage.store import Store
from mirror.telemetry.log import fields

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
                yield await self._stored(digest, found, LINKED if size is None else HIT)
                return
        async with self._fill(scope, digest, size) as answer:
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
        self, scope: Scope, digest: Digest, size: int | None
    ) -> AsyncIterator[BlobAnswer]:
        source = self._source(scope)
        outcome = JOINED if self._fills.is_running(source.upstream, digest) else STORED
        try:
            with self._memory.remembering_missing(scope, f"blob {digest}"):
                fill = await self._fills.join(source, digest, size)
        except StoreError as error:
            _logger.info("not kept: %s", error, extra=fields(digest=digest, size=size))
            async with self._pass_through(scope, digest) as answer:
                yield answer
            return
        try:
            await self._link(scope, fill, size)
            yield BlobAnswer(digest, fill.readers.size, fill.readers, outcome)
        finally:
            fill.readers.leave()

    async def _link(self, scope: Scope, fill: Fill, known: int | None) -> None:
        """See that upstream lets the repository have the blob; remember it, and its size."""
        if known is None and not fill.authorities.has_accepted(self._source(scope)):
            await self._links.confirm_blob(scope, fill.digest)
        elif fill.readers.size not in {None, known}:  # upstream has begun to send it
            await self._links.record(scope.repository, fill.digest, fill.readers.size or 0)

    @asynccontextmanager
    async def _pass_through(self, scope: Scope, digest: Digest) -> AsyncIterator[BlobAnswer]:
        source = self._source(scope)
        async with passing_through(source, digest, patience=self._fills.patience) as stream:
            if stream.size is not None:
                self._fills.note_size(source.upstream, digest, stream.size)
            yield BlobAnswer(digest, stream.size, stream, MISS)

    def _source(self, scope: Scope) -> BlobSource:
        return self._registries[scope.repository.namespace].blobs(scope)
