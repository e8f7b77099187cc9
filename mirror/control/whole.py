"""Looking into an image: what it consists of, and what of that is not here."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from mirror.aio.reading import read_aside
from mirror.oci.descriptor import Platform
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError
from mirror.oci.manifest import MAX_SIZE, References, media_type_of, parse_references
from mirror.oci.reference import Repository
from mirror.pull.links import Verdict, decide
from mirror.records.ports import Link, Records
from mirror.storage.ports import Storage

_DEEPEST = 4  # indexes in indexes
_LARGEST = 2**26  # bytes of an image's manifests
_CONFIGS = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
_MOST = 10_000  # blobs of an image; anybody may write a manifest


class FoundManifest(NamedTuple):
    """A manifest that is here, as its repository's clients know it."""

    media_type: str
    content: bytes
    references: References


@dataclass(slots=True)
class WholeImage:
    """An image of a repository, as far as it is here.

    `link` is what every link of the repository's counts as; None: as what is on record of it. What
    may not be served by it without asking upstream is not here, as far as this image goes.
    """

    store: Storage
    records: Records
    private: frozenset[str]
    repository: Repository
    link: Link | None = None
    manifests: dict[Digest, FoundManifest] = field(default_factory=dict)
    """Each after those that it names."""
    blobs: dict[Digest, None] = field(default_factory=dict)
    platforms: list[str] = field(default_factory=list)
    partly: dict[str, None] = field(default_factory=dict)
    """What is lacking of those entries of indexes whose manifests are here."""
    _lacks: dict[Digest, list[str]] = field(default_factory=dict)
    _size: int = 0

    async def look(
        self,
        digest: Digest,
        media_type: str = "",
        platforms: Collection[Platform] = (),
        depth: int = _DEEPEST,
    ) -> list[str]:
        """Add what a manifest leads to; what of it is lacking (nothing: it is here in whole).

        Of an index those entries are added that are here in whole: there has to be an image among
        them, or all that are for the `platforms`, if any are named. `media_type` is what others
        call it. Raises StoreError.
        """
        if digest in self.manifests:
            return []
        if digest not in self._lacks:  # whoever names something a thousand times looks once
            self._lacks[digest] = await self._look(digest, media_type, platforms, depth)
        return self._lacks[digest]

    async def _look(
        self, digest: Digest, media_type: str, platforms: Collection[Platform], depth: int
    ) -> list[str]:
        if len(self.manifests) + len(self.blobs) > _MOST or self._size > _LARGEST or not depth:
            return [f"{digest}, and more than images have"]
        found = await self._read(digest, media_type)
        if isinstance(found, str):
            return [found]
        self._size += len(found.content)
        blobs = [it.digest for it in found.references.blobs if not it.is_foreign]
        lacking = await self._lacking(blobs)
        if found.references.manifests and not lacking:
            lacking = await self._look_into(found.references, platforms, depth - 1)
        if not lacking:
            self.blobs |= dict.fromkeys(blobs)
            self.manifests[digest] = found
        return lacking

    def runnable(self) -> list[Digest]:
        """The configuration and the layers that daemons run; none, where that is not one image."""
        found = [
            it.references.blobs
            for it in self.manifests.values()
            if it.references.blobs and it.references.blobs[0].media_type in _CONFIGS
        ]
        if len(found) != 1 or any(it.is_foreign for it in found[0]):
            return []
        return [it.digest for it in found[0]]

    async def _look_into(
        self, index: References, platforms: Collection[Platform], depth: int
    ) -> list[str]:
        lacking: dict[str, None] = {}
        wanted = {it.digest: it for it in index.manifests if it.is_for(platforms)}
        whole = []
        for digest, entry in wanted.items():
            lacks = await self.look(digest, entry.media_type, depth=depth)
            lacking |= dict.fromkeys(lacks)
            if str(digest) not in lacks:
                self.partly |= dict.fromkeys(lacks)
            if not lacks and entry.is_image:
                whole.append(entry)
        self.platforms += [str(it.platform) for it in whole if it.platform is not None]
        if not wanted:
            return [f"an image for {', '.join(map(str, platforms)) or 'any platform'}"]
        return [] if whole and not platforms else list(lacking)

    async def _read(self, digest: Digest, media_type: str) -> FoundManifest | str:
        """A manifest, or what is lacking."""
        content = None
        if await self._may_have(digest):
            content = await self.store.read_blob(digest, limit=MAX_SIZE)
        if content is None:
            return str(digest)
        try:
            references = await read_aside(parse_references, content)
        except RegistryError as error:
            return f"{digest}, which is no manifest ({error.message})"
        said = await self.records.find_media_type(self.repository.namespace, digest)
        kind = media_type_of(references, said or media_type)
        if kind is None or not (references.manifests or references.blobs):
            return f"{digest}, which names nothing that can be read here"
        return FoundManifest(kind, content, references)

    async def _lacking(self, digests: Collection[Digest]) -> list[str]:
        stored = await self.store.find_stored(list(digests))
        return [
            str(digest)
            for digest in digests
            if digest not in stored or not await self._may_have(digest)
        ]

    async def _may_have(self, digest: Digest) -> bool:
        """Whether the repository may be served this without asking anybody."""
        link = self.link or await self.records.find_link(self.repository, digest)
        senders = await self.records.list_senders(digest)
        verdict = decide(link, self.repository.namespace, senders, self.private)
        return verdict is Verdict.SERVE
