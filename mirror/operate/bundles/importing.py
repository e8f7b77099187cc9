"""Importing: a bundle, taken into a depot.

Everything is proved by its digest before it is kept, and what is here already is not written again:
so an import that was broken off is finished by another one, which goes on in the middle of a blob.
An image is put on record once all of it is here; what is not leaves what was known before as it is.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field

from mirror.control.bundles import MOST_ASKED, Arrived, ArrivedList, Depot, Recorded, Sent
from mirror.control.verify import Total
from mirror.oci.digest import Digest
from mirror.oci.errors import DigestMismatch, RegistryError, StoreError
from mirror.oci.image import parse_image
from mirror.oci.layout import BadLayout, NamedImage
from mirror.oci.manifest import MAX_SIZE, parse_references
from mirror.operate.bundles.archive import Archive
from mirror.operate.bundles.steps import (
    Accompanied,
    BundleStep,
    Done,
    Imported,
    Meter,
    Moved,
)

_DEEPEST = 4  # indexes in indexes
_MOST_OF_ONE = 10_000  # blobs of an image
_MOST_NAMED = 1_000_000  # digests that all manifests of a bundle name


@dataclass(slots=True)
class _Content:
    """What a bundle holds of an image, or (`is_companion`) of what refers to one.

    That is what its manifests name.
    """

    image: NamedImage
    upstream: str
    is_companion: bool = False
    manifests: dict[Digest, None] = field(default_factory=dict)
    blobs: dict[Digest, None] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    """The blobs that its manifests name, in the bundle or not."""

    def __iter__(self) -> Iterator[tuple[Digest, bool]]:
        """All of it, each with whether it is a manifest; those come last, as they name the rest."""
        yield from ((digest, False) for digest in self.blobs)
        yield from ((digest, True) for digest in reversed(self.manifests))


async def import_bundle(depot: Depot, bundle: Archive, meter: Meter) -> AsyncGenerator[BundleStep]:
    """Take a bundle in; what happens, step by step.

    An image that the store does not take is refused, and the others are not. Raises BadLayout, and
    RegistryErrors.
    """
    layout = bundle.layout()
    reader, contents = _Contents(bundle), list[_Content]()
    wanted = [(image, False) for image in layout.images]
    wanted += [(image, True) for image in bundle.companions().images]
    for image, is_companion in wanted:
        try:
            content = await asyncio.to_thread(reader.of, image, is_companion=is_companion)
            contents.append(content)
        except (BadLayout, ValueError) as error:
            yield _refused(image, error, is_companion=is_companion)
    everything = {digest for content in contents for digest, _ in content}
    yield Total(len(everything), sum(map(bundle.size_of, everything)))
    intake = _Intake(depot, bundle, meter)
    images = 0
    for content in contents:
        try:
            async for step in intake.take(content):
                yield step
            told = await _record(depot, content, layout.made_at)
        except (StoreError, ValueError) as error:  # another one may be smaller
            yield _refused(content.image, error, is_companion=content.is_companion)
            continue
        images += isinstance(told, Imported) and told.outcome != "incomplete"
        yield told
    yield Done(images, intake.written, intake.size, intake.present)


async def _record(depot: Depot, content: _Content, made_at: float) -> Imported | Accompanied:
    """Put on record what has arrived: an image, or what refers to one."""
    image, digest = content.image, str(content.image.digest)
    if not content.is_companion:
        arrived = Arrived(image.name, digest, image.media_type, made_at)
        return _told(await depot.record(arrived), content)
    if isinstance(parse_image(image.name)[1], Digest):
        done = await depot.record_referrers(ArrivedList(image.name, digest, made_at))
    else:
        done = await depot.record(Arrived(image.name, digest, image.media_type, made_at))
    return Accompanied(done.image, done.outcome, done.missing)


def _refused(image: NamedImage, error: Exception, *, is_companion: bool) -> Imported | Accompanied:
    name = image.name or str(image.digest)
    if is_companion:
        return Accompanied(name, "refused", reason=str(error))
    return Imported(name, "refused", reason=str(error))


def _told(done: Recorded, content: _Content) -> Imported:
    """What has become of an image; of what else is lacking, what its bundle had led to expect."""
    if done.outcome == "incomplete":
        return Imported(done.image, "incomplete", done.missing)
    if missing := [one for one in done.missing if one in content.named]:
        return Imported(done.image, "partly", missing)
    return Imported(done.image, done.outcome)


class _Intake:
    """Takes blobs in, each once."""

    def __init__(self, depot: Depot, bundle: Archive, meter: Meter) -> None:
        self._meter = meter
        self._depot = depot
        self._bundle = bundle
        self._told: dict[Digest, bool] = {}  # whether it is what it should be
        self.written = self.present = self.size = 0

    async def take(self, content: _Content) -> AsyncIterator[BundleStep]:
        """Take in what the bundle holds of an image."""
        wanted = [digest for digest, _ in content]
        missing: set[Digest] = set()
        for start in range(0, len(wanted), MOST_ASKED):
            missing |= await self._depot.find_missing(wanted[start : start + MOST_ASKED])
        present: list[Digest] = []
        for digest, is_manifest in content:
            is_known = digest in self._told
            if digest in missing and self._told.get(digest, True):
                is_right = await self._write(digest, content.upstream, is_manifest=is_manifest)
            else:
                is_right = self._told[digest] if is_known else self._is_right(digest)
                present += [digest] if is_right else []
            self._told[digest] = is_right
            if not is_known:
                yield self._note(digest, is_right=is_right, was_missing=digest in missing)
        for start in range(0, len(present), MOST_ASKED):
            some = [str(digest) for digest in present[start : start + MOST_ASKED]]
            await self._depot.note_sent(Sent(some, [content.upstream]))

    def _note(self, digest: Digest, *, is_right: bool, was_missing: bool) -> Moved:
        size = self._bundle.size_of(digest)
        if not is_right:
            return Moved(str(digest), size, "damaged")
        if not was_missing:
            self.present += 1
            return Moved(str(digest), size, "present")
        self.written += 1
        self.size += size
        return Moved(str(digest), size, "written")

    def _is_right(self, digest: Digest) -> bool:
        hasher = digest.hasher()
        for piece in self._bundle.chunks(digest):
            hasher.update(piece)
            self._meter.advance(len(piece))
        return digest.matches(hasher)

    async def _write(self, digest: Digest, upstream: str, *, is_manifest: bool) -> bool:
        """Whether it was written, being what it should be."""
        try:
            await self._send(digest, upstream, is_manifest=is_manifest)
        except DigestMismatch:
            if not self._is_right(digest):
                return False
            # What was left of an import that broke off was of another bundle, and is gone now.
            await self._send(digest, upstream, is_manifest=is_manifest)
        return True

    async def _send(self, digest: Digest, upstream: str, *, is_manifest: bool) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for piece in self._bundle.chunks(digest):
                yield piece
                self._meter.advance(len(piece))

        size = self._bundle.size_of(digest)
        await self._depot.write(
            digest, size, chunks(), upstreams=[upstream], is_manifest=is_manifest
        )


class _Contents:
    """Reads a bundle's manifests, each once."""

    def __init__(self, bundle: Archive) -> None:
        self._bundle = bundle
        self._read: dict[Digest, tuple[list[Digest], list[Digest]]] = {}
        self._named = 0

    def of(self, image: NamedImage, *, is_companion: bool = False) -> _Content:
        """What the bundle holds of an image. Raises BadLayout, and ValueError for its name."""
        registry = image.name.partition("/")[0]
        if "." not in registry and ":" not in registry and registry != "localhost":
            raise BadLayout(
                "it is named without its registry, such as docker.io/library/alpine:3.20, in"
                " neither io.containerd.image.name nor org.opencontainers.image.ref.name of"
                " index.json"
            )
        if image.digest not in self._bundle:
            raise BadLayout(f"its manifest {image.digest} is not in the bundle")
        upstream = parse_image(image.name)[0].namespace
        content = _Content(image, upstream, is_companion)
        level = [image.digest]
        for _ in range(_DEEPEST):
            level = [child for digest in level for child in self._add(digest, content)]
            if not level:
                return content
        raise BadLayout("its indexes are in indexes, and so on: that is no image")

    def _add(self, digest: Digest, content: _Content) -> list[Digest]:
        """Add a manifest and its blobs; the manifests that it names, as far as they are there."""
        if digest in content.manifests:
            return []
        if digest not in self._read:
            self._read[digest] = self._names(digest)
        manifests, blobs = self._read[digest]
        content.manifests[digest] = None
        content.named.update(map(str, blobs))
        content.blobs |= dict.fromkeys(it for it in blobs if it in self._bundle)
        if len(content.manifests) + len(content.named) > _MOST_OF_ONE:
            raise BadLayout(f"it names more than {_MOST_OF_ONE} blobs")
        return manifests

    def _names(self, digest: Digest) -> tuple[list[Digest], list[Digest]]:
        document = self._bundle.read(digest, limit=MAX_SIZE)
        if not digest.names(document):
            raise BadLayout(f"what stands as {digest} is something else")
        try:
            references = parse_references(document)
        except RegistryError as error:
            raise BadLayout(f"{digest} is no manifest: {error.message}") from None
        entries = dict.fromkeys(it.digest for it in references.manifests)
        manifests = [it for it in entries if it in self._bundle]
        blobs = list(dict.fromkeys(it.digest for it in references.blobs if not it.is_foreign))
        self._named += len(manifests) + len(blobs) + 1
        if self._named > _MOST_NAMED:
            raise BadLayout(f"all its manifests together name more than {_MOST_NAMED} blobs")
        return manifests, blobs
