"""What an image consists of at the moment, as upstream says: asked for manifest by manifest."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from mirror.aio.reading import read_aside
from mirror.oci.descriptor import Platform
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.manifest import Manifest, parse_references
from mirror.oci.reference import Reference, Repository, Tag
from mirror.pull.manifests import Manifests
from mirror.sources.registry.endpoint import Scope

_DEEPEST = 4  # indexes in indexes
_MOST = 10_000  # blobs of an image; anybody may write a manifest


async def _go_on() -> None:
    """Nobody minds how many manifests are asked for."""


async def every_one(_: Digest) -> bool:
    """All entries count."""
    return True


@dataclass(slots=True)
class Version:
    """What an image consists of: sizes in bytes, by manifests' words."""

    sizes: dict[Digest, int] = field(default_factory=dict)
    blobs: dict[Digest, int] = field(default_factory=dict)  # what of it is no manifest

    @property
    def size(self) -> int:
        """All of it, in bytes."""
        return sum(self.sizes.values())


class Versions:
    """Finds them, on the mirror's own authority; manifests are kept on the way."""

    def __init__(self, manifests: Manifests) -> None:
        self._manifests = manifests

    async def find(
        self,
        repository: Repository,
        reference: Reference,
        platforms: Sequence[Platform] = (),
        *,
        before_each: Callable[[], Awaitable[None]] = _go_on,
        only: Callable[[Digest], Awaitable[bool]] = every_one,
    ) -> Version:
        """What is meant now, of these platforms or (none) of all.

        `before_each` manifest that is asked for somebody may want to stop. Of an index, `only`
        those entries count that somebody wants.

        Raises:
            RegistryError: What upstream says, or that it says nothing.
        """
        scope, version = Scope(repository), Version()
        await before_each()
        if isinstance(reference, Tag):
            answer = await self._manifests.get_by_tag(scope, reference)
        else:
            answer = await self._manifests.get_by_digest(scope, reference)

        async def add(manifest: Manifest, depth: int) -> None:
            version.sizes[manifest.digest] = manifest.size
            if len(version.sizes) > _MOST:
                raise RegistryError(ErrorCode.MANIFEST_INVALID, f"it names more than {_MOST} blobs")
            references = await read_aside(parse_references, manifest.content)
            for blob in references.blobs:
                if not blob.is_foreign:
                    version.sizes[blob.digest] = version.blobs[blob.digest] = blob.size
            for entry in references.manifests if depth else ():
                is_new = entry.digest not in version.sizes and entry.is_for(platforms)
                if is_new and await only(entry.digest):
                    await before_each()
                    child = await self._manifests.get_by_digest(scope, entry.digest)
                    await add(child.manifest, depth - 1)

        await add(answer.manifest, _DEEPEST)
        return version
