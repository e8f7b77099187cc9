"""This mirror's store as a depot: what bundles are made of, and taken into (`control.bundles`).

What is exported of an image is what its repository may have without asking anybody (`pull.links`):
whoever writes a manifest that names a private layer would get it at the other end otherwise.

What a bundle holds counts as sent by the registry that its images are named after, and what its
manifests name as confirmed: the operator says so, in upstream's place. So an image of an
`access = "client"` upstream stays as private as it would be if upstream had sent it; and what is
here only because clients of such an upstream have brought it is no part of an image that names it,
unless the bundle holds it too.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable, Mapping
from contextlib import closing

from mirror.aio.reading import read_aside
from mirror.config import Upstream, aliases_of
from mirror.control.bundles import (
    CHUNK,
    MOST_ASKED,
    Arrived,
    ArrivedList,
    Blob,
    Plan,
    Recorded,
    Sent,
    Wanted,
)
from mirror.control.companions import Companions
from mirror.control.whole import WholeImage
from mirror.oci.descriptor import parse_platform
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import DigestMismatch, ErrorCode, Missing, RegistryError, StoreError
from mirror.oci.image import Image, name_of, parse_image
from mirror.oci.manifest import MAX_SIZE
from mirror.oci.reference import Reference, Repository, Tag
from mirror.oci.referrers import add_referrers, keep_referrers, list_referrers
from mirror.pull.arriving import Arriving
from mirror.pull.fill.others import Others
from mirror.pull.forget import Forgettable
from mirror.pull.memory import Memory
from mirror.records.ports import Fleet, Link, Named, Records, ReferrersRecord, TagRecord
from mirror.storage.ports import Writer
from mirror.storage.store import LocalStorage

_PARTIALS_OF = "bundle"
"""Whose the unproved bytes of bundles are, where others' have their upstream's name."""

_VOUCHED_FOR = Link(0, is_confirmed=True, is_sent=False)
"""What an import makes of every link in an image."""


class StoreDepot:
    """Implements `control.bundles.Depot`.

    `forget` has every memory drop what it remembers, `note_tag` is told what a tag meant before
    and means now, `clock` gives seconds since the epoch. `records` take whatever is recorded.
    `upstreams` may change meanwhile; `arriving` is what collecting has to leave alone. `fleet`
    and `others`: the mirrors that are one with this one, for manifests and for blobs.
    """

    def __init__(
        self,
        store: LocalStorage,
        records: Records,
        memory: Memory,
        upstreams: Mapping[str, Upstream],
        *,
        arriving: Arriving,
        forget: Callable[[Forgettable], None],
        note_tag: Callable[[Repository, Digest | None, Digest], None],
        clock: Callable[[], float],
        fleet: Fleet,
        others: Others | None,
    ) -> None:
        self._store = store
        self._records = records
        self._memory = memory
        self._upstreams = upstreams
        self._arriving = arriving
        self._forget = forget
        self._note_tag = note_tag
        self._clock = clock
        self._fleet = fleet
        self._others = others

    @property
    def _private(self) -> frozenset[str]:
        return frozenset(name for name, its in self._upstreams.items() if its.access == "client")

    # Out

    async def plan(self, wanted: Wanted) -> Plan:
        """What is here of an image."""
        repository, reference = self._parse(wanted.image)
        platforms = [parse_platform(text) for text in wanted.platforms]
        name = name_of(repository, reference)
        digest = await self._resolve(repository, reference)
        if digest is None:
            return Plan(name, missing=["its tag, which is not known here"])
        image = self._image(repository)
        if lacking := await image.look(digest, platforms=platforms):
            return Plan(name, missing=lacking)
        root = image.manifests[digest]
        config, *layers = list(map(str, image.runnable())) or [""]
        companions = Companions(self._records, repository, lambda: self._image(repository))
        await companions.look(image.manifests)
        images = [image, *companions.images]
        manifests = dict.fromkeys(it for one in images for it in one.manifests)
        blobs = dict.fromkeys(it for one in images for it in one.blobs)
        return Plan(
            name, str(digest), root.media_type, len(root.content), image.platforms,
            [
                *[await self._describe(it, is_manifest=True) for it in manifests],
                *[await self._describe(it, is_manifest=False) for it in blobs],
            ],
            config, layers, companions=companions.found, absent=list(companions.absent),
        )  # fmt: skip

    async def read(self, digest: Digest) -> AsyncGenerator[bytes, None]:
        """A blob, in pieces of at most CHUNK bytes."""
        blob = await self._store.open_blob(digest)
        if blob is None:
            raise Missing(ErrorCode.BLOB_UNKNOWN, f"{digest} is not here (any more)")
        with closing(blob):
            offset = 0
            while offset < blob.size:
                piece = await asyncio.to_thread(os.pread, blob.file.fileno(), CHUNK, offset)
                if not piece:
                    raise StoreError(
                        f"{digest} is shorter than it was; mirror verify sets it aside"
                    )
                offset += len(piece)
                yield piece

    async def _describe(self, digest: Digest, *, is_manifest: bool) -> Blob:
        blob = await self._store.open_blob(digest)
        if blob is None:
            raise StoreError(f"{digest} has left while the image was looked at: try again")
        with closing(blob):
            facts = await asyncio.to_thread(os.fstat, blob.file.fileno())
            return Blob(str(digest), blob.size, is_manifest, facts.st_mtime)

    # In

    async def find_missing(self, digests: Collection[Digest]) -> set[Digest]:
        """Which of these (MOST_ASKED at most) are not here."""
        if len(digests) > MOST_ASKED:
            raise ValueError(f"ask for {MOST_ASKED} digests at a time")
        wanted = list(digests)
        self._arriving.note(wanted)
        return set(wanted) - await self._store.find_stored(wanted)

    async def write(
        self,
        digest: Digest,
        size: int,
        chunks: AsyncIterable[bytes],
        *,
        upstreams: Collection[str],
        is_manifest: bool,
    ) -> None:
        """Keep a blob that a bundle holds, in images of these upstreams."""
        named = self._named(upstreams)
        self._arriving.note([digest])
        writer = await self._store.open_writer(_PARTIALS_OF, digest, size)
        try:
            await writer.expect(size)
            await _receive(writer, size, chunks)
            # Before it is kept: what is private is so from the first moment on.
            await self._note_senders([digest], named)
            await writer.commit(is_manifest=is_manifest)
        except DigestMismatch:
            await writer.discard()
            raise
        finally:
            try:
                await writer.suspend()  # what has broken off is continued the next time
            finally:
                writer.close()

    async def note_sent(self, sent: Sent) -> None:
        """A bundle holds these too, which are here already."""
        named = self._named(sent.upstreams)
        if len(sent.digests) > MOST_ASKED:
            raise ValueError(f"tell of {MOST_ASKED} digests at a time")
        digests = [parse_digest(it) for it in sent.digests]
        self._arriving.note(digests)
        for digest in digests:  # until it is on record whose it is, nothing else keeps it here
            self._store.note_access(digest)
        await self._note_senders(digests, named)

    async def record(self, image: Arrived) -> Recorded:
        """Put an image on record: so it can be pulled."""
        repository, reference = self._parse(image.image)
        name, digest = name_of(repository, reference), parse_digest(image.digest)
        if isinstance(reference, Digest) and reference != digest:
            raise ValueError(f"{name} is not {digest}")
        whole = self._image(repository, _VOUCHED_FOR)
        if lacking := await whole.look(digest, image.media_type):
            return Recorded(name, "incomplete", lacking)
        await self._link(whole)
        self._arriving.settle([*whole.blobs, *whole.manifests])
        is_imported = True
        if isinstance(reference, Tag):
            made_at = min(image.made_at, self._clock())
            is_imported = await self._tag(repository, reference, digest, made_at)
        # As this is synced, so is all that was recorded before.
        await self._records.record_sent(repository.namespace, digest, is_durable=True)
        self._forget(repository)
        return Recorded(name, "imported" if is_imported else "newer", list(whole.partly))

    async def record_referrers(self, arrived: ArrivedList) -> Recorded:
        """Put on record what refers to something, as far as it is here."""
        repository, reference = self._parse(arrived.image)
        name, digest = name_of(repository, reference), parse_digest(arrived.digest)
        subject = _subject(name, reference)
        content = await self._store.read_blob(digest, limit=MAX_SIZE)
        if content is None:
            return Recorded(name, "incomplete", [str(digest)])
        here, missing = [], list[str]()
        try:
            entries = await read_aside(list_referrers, content)
        except RegistryError as error:
            raise ValueError(f"{digest}: {error.message}") from error
        for entry in entries:
            whole = self._image(repository, _VOUCHED_FOR)
            if lacking := await whole.look(entry.digest, entry.media_type):
                missing += lacking
                continue
            await self._link(whole)
            self._arriving.settle([*whole.blobs, *whole.manifests])
            here.append(entry.digest)
        made_at = min(arrived.made_at, self._clock())
        is_ours = await self._list(repository, subject, keep_referrers(content, here), made_at)
        if not await self._records.count_links([digest]):
            self._arriving.settle([digest])
            await self._store.remove_unused([digest])
        self._forget(repository)
        if missing:
            return Recorded(name, "incomplete", missing)
        return Recorded(name, "imported" if is_ours else "newer")

    async def _list(
        self, repository: Repository, subject: Digest, content: bytes, made_at: float
    ) -> bool:
        """Have this refer to the subject, unless upstream has said more since."""
        known = await self._records.find_referrers(repository, subject)
        if known is not None and known.checked_at > made_at and not known.is_imported:
            return known.content == content
        if known is not None and known.is_imported:
            both = add_referrers(content, known.content)
            content = both if len(both) <= MAX_SIZE else content
            made_at = max(made_at, known.checked_at)
        record = ReferrersRecord(content, made_at, is_imported=True)
        await self._records.record_referrers(repository, subject, record)
        return True

    async def _link(self, image: WholeImage) -> None:
        repository = image.repository
        for digest in image.blobs:
            size = (await self._store.measure([digest])).bytes
            await self._records.record_link(repository, digest, size)
            if self._others is not None and await self._is_sent(repository, digest):
                self._others.note_here(repository.namespace, digest)
        for digest, found in image.manifests.items():
            is_sent = await self._is_sent(repository, digest)
            await self._store.keep(_PARTIALS_OF, digest, found.content, is_manifest=True)
            await self._records.record_manifest(
                repository, digest, len(found.content),
                [Named(it.digest, it.size, is_foreign=it.is_foreign) for it in found.references],
                sent_as=found.media_type if is_sent else None,
            )  # fmt: skip
            if is_sent:
                await self._fleet.put_manifest(digest, found.content)

    async def _is_sent(self, repository: Repository, digest: Digest) -> bool:
        """Whether its registry has sent it, or the operator has said so."""
        return repository.namespace in await self._records.list_senders(digest)

    async def _tag(self, repository: Repository, tag: Tag, digest: Digest, made_at: float) -> bool:
        """Have a tag mean this, unless more was learnt of it since."""
        known = await self._records.find_tag(repository, tag.name)
        if known is not None and known.checked_at > made_at:
            return known.digest == digest
        record = TagRecord(digest, made_at, is_imported=True)
        await self._records.record_tag(repository, tag.name, record)
        self._note_tag(repository, None if known is None else known.digest, digest)
        return True

    async def _note_senders(self, digests: Iterable[Digest], upstreams: Collection[str]) -> None:
        for digest in digests:
            for upstream in upstreams:
                await self._records.record_sent(
                    upstream, digest, is_durable=upstream in self._private
                )
            self._memory.add_senders(digest, await self._records.list_senders(digest))

    # Both

    def _image(self, repository: Repository, link: Link | None = None) -> WholeImage:
        return WholeImage(self._store, self._records, self._private, repository, link)

    async def _resolve(self, repository: Repository, reference: Reference) -> Digest | None:
        if isinstance(reference, Digest):
            return reference
        record = await self._records.find_tag(repository, reference.name)
        return None if record is None else record.digest

    def _parse(self, text: str) -> Image:
        """An image of an upstream that is configured here. Raises ValueError."""
        repository, reference = parse_image(text, aliases_of(self._upstreams))
        [namespace] = self._named([repository.namespace])
        if repository.name not in self._upstreams[namespace].served:
            raise ValueError(f"{text}: by allow or deny of {namespace} it is not served")
        return repository, reference

    def _named(self, registries: Collection[str]) -> list[str]:
        """The upstreams that are meant. Raises ValueError."""
        aliases = aliases_of(self._upstreams)
        names = [aliases.get(name, name) for name in registries]
        for name in names:
            if name not in self._upstreams:
                raise ValueError(f'there is no [upstream."{name}"] here')
        return names


def _subject(name: str, reference: Reference) -> Digest:
    match reference:
        case Digest():
            return reference
        case Tag():
            raise ValueError(f"{name}: what refers to a tag is not told by lists")


async def _receive(writer: Writer, size: int, chunks: AsyncIterable[bytes]) -> None:
    """Write all that comes; what is there already stays. Raises DigestMismatch, StoreError."""
    offset = 0
    async with writer.pen() as pen:
        async for chunk in chunks:
            if offset + len(chunk) > size:
                raise DigestMismatch(f"more than {size} bytes come as {writer.digest}")
            await pen.write(offset, [chunk])
            offset += len(chunk)
    if offset < size:
        raise StoreError(f"{writer.digest} has broken off")
    if not writer.is_proved():
        raise DigestMismatch(f"what comes as {writer.digest} is something else")
