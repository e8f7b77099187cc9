"""Pulls of blobs: from memory, from disk, from a fill, or past the disk.

    linked to the repository   at hand    answer
    so that it may have it     yes        hit
    not so (pull.links)        yes        upstream confirms by one HEAD, then hit (linked)
    private elsewhere          yes        as if it were not at hand
    yes                        no         fill (miss), or the running fill (joined)
    no                         no         fill; its start is upstream's confirmation
    no                         coming     joined, once upstream has confirmed by one HEAD

"Linked" tells that somebody has it by another name: where only clients' own authorizations have
brought it (`Links.is_open`), it is called a miss.

What is small is read into memory, and proved anew on the way: what is damaged is not at hand.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial

from mirror.aio.slots import client
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, Missing, Sealed, StoreError
from mirror.oci.ranges import ByteRange
from mirror.pull.answers import HIT, JOINED, LINKED, MISS, STORED, BlobAnswer, Outcome, WholeFile
from mirror.pull.fill.fill import Fill
from mirror.pull.fill.fills import Fills
from mirror.pull.fill.others import Others
from mirror.pull.fill.wants import Want
from mirror.pull.keeping import try_to_open, try_to_read
from mirror.pull.links import Links, Verdict
from mirror.pull.memory import SMALL, Memory
from mirror.pull.passthrough.transfers import Transfers
from mirror.records.ports import Link
from mirror.sources.ports import BlobSource
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.ports import OpenBlob, Storage
from mirror.telemetry.log import explain, fields
from mirror.telemetry.traffic import Why

_logger = logging.getLogger(__name__)


class Blobs:
    """Answers pulls of blobs."""

    def __init__(
        self,
        store: Storage,
        memory: Memory,
        links: Links,
        fills: Fills,
        *,
        transfers: Transfers,
        registries: Mapping[str, Registry],
        others: Others | None = None,
    ) -> None:
        self._store = store
        self._memory = memory
        self._links = links
        self._fills = fills
        self._transfers = transfers
        self._registries = registries
        self._others = others

    async def head(self, scope: Scope, digest: Digest) -> BlobAnswer:
        """The size of a blob, without transferring it.

        Of what may be served from here it is the proved one. Else what a manifest has told of it
        may be told again: that says nothing of what is at hand.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        link = await self._links.find(scope.repository, digest)
        verdict = await self._links.judge(scope.repository, digest, link)
        if verdict is Verdict.SERVE:
            async with self._find(digest) as found:
                if found is not None:
                    return BlobAnswer(digest, _size(found), None, HIT)
        await self._require_no_manifest(scope, digest)
        if link is not None and (link.size or link.is_confirmed):
            await self._require_hope(scope, digest)
            return BlobAnswer(digest, link.size, None, HIT)
        size = await self._links.confirm_blob(scope, digest)
        if verdict is Verdict.FETCH:
            return BlobAnswer(digest, size, None, MISS)
        async with self._find(digest) as found:
            if found is None:
                return BlobAnswer(digest, size, None, MISS)
            outcome = await self._confirmed(digest)
            return BlobAnswer(digest, _size(found), None, outcome)

    async def may_be_served(self, scope: Scope, digest: Digest) -> bool:
        """Whether a blob may be had of this repository without asking upstream, if it is here."""
        link = await self._links.find(scope.repository, digest)
        return await self._links.judge(scope.repository, digest, link) is Verdict.SERVE

    @asynccontextmanager
    async def open(
        self, scope: Scope, digest: Digest, ranges: Sequence[ByteRange] = ()
    ) -> AsyncIterator[BlobAnswer]:
        """Open a blob for reading; `ranges` of it, in this order, or (none) all.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        link = await self._links.find(scope.repository, digest)
        elsewhere = await self._find_elsewhere(scope, digest, link)
        if elsewhere is not None:
            yield elsewhere
            return
        # Before looking: between that and joining the fill, nothing is waited for.
        why = await self._links.why_missed(scope.repository, digest, link, is_manifest=False)
        async with self._find(digest) as found:
            explain(
                _logger, "a blob is looked for", repository=scope.repository, digest=digest,
                is_here=found is not None, link=_kind_of(link), why_missed=why,
            )  # fmt: skip
            if found is not None:
                why = Why.PRIVATE
                verdict = await self._links.judge(scope.repository, digest, link)
                explain(
                    _logger, "a blob that is here is judged", repository=scope.repository,
                    digest=digest, verdict=verdict.name.lower(),
                )  # fmt: skip
                if verdict is not Verdict.FETCH:
                    outcome = HIT
                    if verdict is Verdict.CONFIRM:
                        outcome = await self._confirmed(digest)
                        await self._links.confirm_blob(scope, digest)
                    yield _answer(digest, found, outcome)
                    return
        async with self._fill(scope, digest, link, ranges, why) as answer:
            yield answer

    @asynccontextmanager
    async def open_rest(self, scope: Scope, digest: Digest) -> AsyncIterator[BlobAnswer]:
        """What is still to come of a blob whose fill the disk has cut off, for who reads it.

        Raises:
            Missing, Denied, Unavailable: As `open`; also while it is read.
        """
        source = self._source(scope)
        find_cut = partial(self._fills.find_cut, source.upstream, digest)
        async with self._transfers.go_on(source, digest, find_cut) as stream:
            yield BlobAnswer(digest, stream.size, stream, MISS)

    async def _find_elsewhere(
        self, scope: Scope, digest: Digest, link: Link | None
    ) -> BlobAnswer | None:
        """Where the client gets it from that all mirrors have in common, if it may have it."""
        if self._others is None:
            return None
        found = await self._others.find_elsewhere(scope.repository.namespace, digest)
        if found is None:
            return None
        verdict = await self._links.judge(scope.repository, digest, link)
        if verdict is Verdict.FETCH:
            return None
        outcome = HIT
        if verdict is Verdict.CONFIRM:
            outcome = await self._confirmed(digest)
            await self._links.confirm_blob(scope, digest)
        location, size = found
        return BlobAnswer(digest, size, None, outcome, location=location)

    async def _confirmed(self, digest: Digest) -> Outcome:
        """What it is called when upstream has confirmed that the repository has what is here."""
        return LINKED if await self._links.is_open(digest) else MISS.since(Why.PRIVATE)

    async def _require_no_manifest(self, scope: Scope, digest: Digest) -> None:
        """Raise Missing for what is not here, and is a manifest by the word of an index that is.

        containerd asks so where it is refused a manifest (a 429, say), and from then on takes it
        for a blob where it is told of one, instead of turning to the next host (its issues 7390 and
        13007).
        """
        if await self._links.is_of_index(scope.repository, digest):
            raise Missing(ErrorCode.BLOB_UNKNOWN, "it is a manifest: ask for it as one")

    async def _require_hope(self, scope: Scope, digest: Digest) -> None:
        """Whoever is told of a blob asks for it next. Raises Missing where that is of no use."""
        try:
            registry = self._registries[scope.repository.namespace]
            registry.require_hope(digest, unknown=ErrorCode.BLOB_UNKNOWN)
        except Missing:
            if not await self._store.is_stored(digest):
                raise

    @asynccontextmanager
    async def _find(self, digest: Digest) -> AsyncIterator[bytes | OpenBlob | None]:
        """A blob in memory or on disk; inside the block it is in use, and stays."""
        content = self._memory.find_blob(digest)
        if content is not None:
            self._store.note_access(digest)
            yield content
            return
        blob = await try_to_open(self._store, digest)
        if blob is None:
            yield None
            return
        with closing(blob):
            if blob.size > SMALL:
                yield blob
                return
        yield await self._read(digest)

    async def _read(self, digest: Digest) -> bytes | None:
        """What is small is from memory the next time."""
        content = await try_to_read(self._store, digest, limit=SMALL)
        if content is not None:
            self._memory.keep_blob(digest, content)
        return content

    @asynccontextmanager
    async def _fill(
        self,
        scope: Scope,
        digest: Digest,
        link: Link | None,
        ranges: Sequence[ByteRange],
        why: Why,
    ) -> AsyncIterator[BlobAnswer]:
        if self._registries[scope.repository.namespace].is_sealed:
            raise Sealed(ErrorCode.BLOB_UNKNOWN)
        want = Want(ranges) if ranges else None
        size = None if link is None else link.size
        source = self._source(scope)
        joins = self._fills.is_running(source.upstream, digest)
        explain(
            _logger, "a download is joined" if joins else "a download begins",
            repository=scope.repository, digest=digest, size=size, why=why,
        )  # fmt: skip
        outcome = JOINED if joins else STORED.since(why)
        try:
            with self._memory.remembering_missing(scope, f"blob {digest}"):
                fill = await self._fills.join(source, digest, size, want)
        except StoreError as error:
            _logger.info("not kept: %s", error, extra=fields(digest=digest, size=size))
            async with self._transfers.open(source, digest) as stream:
                outcome = MISS.since(Why.NOT_KEPT).sent_by(stream.sender)
                yield BlobAnswer(digest, stream.size, stream, outcome)
            return
        try:
            await self._link(scope, fill, link)
            outcome = outcome.sent_by(fill.first_sender)
            yield BlobAnswer(digest, fill.readers.size, fill.readers, outcome)
        finally:
            fill.leave(client.get(), want)

    async def _link(self, scope: Scope, fill: Fill, link: Link | None) -> None:
        """See that upstream lets the repository have what is coming; remember it, and its size."""
        size = fill.readers.size
        is_sent_to_it = fill.authorities.has_accepted(self._source(scope))
        is_named = link is not None and not link.is_confirmed
        is_mere_name = is_named and scope.authorization is not None  # see `Links`
        if not is_sent_to_it and (
            link is None or is_mere_name or (is_named and fill.is_of_another)
        ):
            await self._links.confirm_blob(scope, fill.digest)
        elif (
            is_sent_to_it
            and size is not None
            and (link is None or is_mere_name or link.size != size)
        ):
            await self._links.record(scope.repository, fill.digest, size)

    def _source(self, scope: Scope) -> BlobSource:
        return self._registries[scope.repository.namespace].blobs(scope)


def _kind_of(link: Link | None) -> str:
    """How the repository is linked to a digest, in a word."""
    if link is None:
        return "none"
    return "sent" if link.is_sent else "confirmed" if link.is_confirmed else "named"


def _size(found: bytes | OpenBlob) -> int:
    return len(found) if isinstance(found, bytes) else found.size


def _answer(digest: Digest, found: bytes | OpenBlob, outcome: Outcome) -> BlobAnswer:
    if isinstance(found, bytes):
        return BlobAnswer(digest, len(found), found, outcome)
    return BlobAnswer(digest, found.size, WholeFile(found.file, found.size), outcome)
