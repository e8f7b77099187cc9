"""Which image a name means here, the tree of its manifests, and the one of a platform."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mirror.aio.reading import read_aside
from mirror.contents.catalog import Catalog
from mirror.contents.image_config import (
    MAX_SIZE as LARGEST_CONFIG,
    ImageConfig,
    parse_config,
)
from mirror.contents.images import TagRow, find_tags, has_image
from mirror.contents.models import ManifestNode, Meaning
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError
from mirror.oci.image import Aliases, parse_image
from mirror.oci.manifest import MAX_SIZE, References, parse_references
from mirror.oci.reference import Repository, Tag
from mirror.storage.store import LocalStorage

_MOST_READ = 128  # manifests of one image
_NO_PLATFORM = "unknown"  # of what is no image, such as BuildKit's attestations
_CONFIGS = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
        "",
    }
)

Kind = Literal["index", "image", "attestation", "artifact", "unknown"]


class NotHere(Exception):
    """What was asked about is not in the cache; in words for an operator."""


@dataclass(frozen=True, slots=True)
class Named:
    """What a name means here."""

    text: str
    repository: Repository
    digest: Digest
    meaning: Meaning | None  # of its tag, where it has one


@dataclass(frozen=True, slots=True)
class Node:
    """A manifest of the tree; `references` where it is here."""

    depth: int
    descriptor: Descriptor
    is_here: bool
    references: References | None

    @property
    def platform(self) -> str:
        """As its index has it."""
        return "" if self.descriptor.platform is None else str(self.descriptor.platform)

    @property
    def kind(self) -> Kind:
        """What it is; where it is not here, as far as its index tells."""
        platform = self.descriptor.platform
        if platform is not None and platform.os == _NO_PLATFORM:
            return "attestation"
        if self.references is None:
            return "image" if platform is not None else "unknown"
        if self.references.manifests:
            return "index"
        config = self.references.config
        return "image" if config is not None and config.media_type in _CONFIGS else "artifact"

    def tell(self) -> ManifestNode:
        """As the API has it."""
        return ManifestNode(
            depth=self.depth,
            digest=str(self.descriptor.digest),
            media_type=self.descriptor.media_type,
            size=self.descriptor.size,
            platform=self.platform,
            kind=self.kind,
            is_here=self.is_here,
        )


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """The image of one platform, from its manifest."""

    digest: Digest
    platform: str
    config: Descriptor | None
    layers: Sequence[Descriptor]
    config_says: ImageConfig


class Manifests:
    """Reads manifests that are here. `aliases` may change meanwhile."""

    def __init__(self, store: LocalStorage, catalog: Catalog, aliases: Aliases) -> None:
        self._store = store
        self._catalog = catalog
        self.aliases = aliases

    async def find(self, text: str) -> Named:
        """What this name means here. Raises ValueError, NotHere."""
        repository, reference = parse_image(text, self.aliases)
        if isinstance(reference, Digest):
            if not await self._catalog.look(has_image(str(repository), reference)):
                raise NotHere(f"{repository}@{reference}: it is not known here by this name")
            return Named(text, repository, reference, None)
        found = await self._catalog.look(find_tags(str(repository), [reference.name]))
        if reference.name not in found:
            raise NotHere(f"{repository}:{reference}: nobody has asked for this tag yet")
        return Named(text, repository, *_meaning(reference, found[reference.name]))

    async def read_tree(self, root: Digest) -> list[Node]:
        """The manifest and those below it, itself first. Raises NotHere."""
        content = await self.read(root, limit=MAX_SIZE)
        if content is None:
            raise NotHere(f"{root}: its manifest is not here (any more)")
        references = await read_aside(_parse, content)
        descriptor = Descriptor(references.media_type or "", root, len(content))
        nodes = [Node(0, descriptor, is_here=True, references=references)]
        waiting = [(1, list(references.manifests))]
        read = 1
        seen = {root}
        while waiting:
            depth, entries = waiting.pop()
            here = await self._store.find_stored([it.digest for it in entries], can_wait=True)
            for entry in entries:
                if entry.digest in seen:
                    continue
                seen.add(entry.digest)
                found = None
                if entry.digest in here and read < _MOST_READ:
                    read += 1
                    content = await self.read(entry.digest, limit=MAX_SIZE)
                    found = None if content is None else await read_aside(_parse, content)
                nodes.append(Node(depth, entry, entry.digest in here, found))
                if found is not None and found.manifests:
                    waiting.append((depth + 1, list(found.manifests)))
        return nodes

    async def choose(self, nodes: Sequence[Node], platform: str) -> PlatformImage:
        """The image of a platform, or ("") the first that is here. Raises NotHere."""
        images = [it for it in nodes if it.kind in {"image", "artifact", "unknown"}]
        wanted = [it for it in images if not platform or _is_of(it.platform, platform)]
        if len(nodes) == 1:
            wanted = images  # it says itself what it is of
        for node in wanted:
            if node.references is not None and node.kind != "unknown":
                return await self._read_image(node, platform)
        known = ", ".join(it.platform for it in images if it.platform) or "none"
        if wanted:
            raise NotHere(f"of the platform {wanted[0].platform or '?'} nothing is here: pull it")
        raise NotHere(f"there is no {platform or 'image'} in it; there are: {known}")

    async def read(self, digest: Digest, *, limit: int) -> bytes | None:
        """All of a blob of at most `limit` bytes, proved; None where it is not here."""
        blob = await self._store.look_into(digest)
        if blob is None:
            return None
        try:
            if blob.size > limit:
                return None
            return await self._store.read_open(blob)
        finally:
            blob.close()

    async def _read_image(self, node: Node, platform: str) -> PlatformImage:
        references = node.references
        assert references is not None  # noqa: S101 - see `choose`
        config, says = references.config, ImageConfig()
        if config is not None and node.kind == "image":
            content = await self.read(config.digest, limit=LARGEST_CONFIG)
            says = ImageConfig() if content is None else parse_config(content)
        its = node.platform or says.platform
        if platform and its and not _is_of(its, platform):
            raise NotHere(f"it is of {its}, and not of {platform}")
        layers = references.blobs if config is None else references.blobs[1:]
        return PlatformImage(node.descriptor.digest, its, config, layers, says)


def _meaning(tag: Tag, row: TagRow) -> tuple[Digest, Meaning]:
    meaning = Meaning(
        tag=tag.name, digest=str(row.digest), since=row.since, checked_at=row.checked_at,
        told_by=row.told_by or None, is_fallback=row.is_fallback, is_imported=row.is_imported,
    )  # fmt: skip
    return row.digest, meaning


def _is_of(platform: str, wanted: str) -> bool:
    return platform == wanted or platform.startswith(f"{wanted}/")


def _parse(content: bytes) -> References:
    try:
        return parse_references(content)
    except RegistryError:
        return References()
