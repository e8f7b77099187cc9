"""Whether all that a manifest names can be had here, for clients that ask nobody else for the rest.

podman, Buildah, skopeo and CRI-O (containers/image) take everything from the first mirror whose
manifest they can load, and fail with it, while the registry itself may be well.

    of what it names                          upstream                           answer
    nothing (an index without entries)        -                                  no
    all is at hand (of an index: for one      -                                  yes
    platform)
    something is not                          has lied about it, broken off, or  no
                                              not had it, a moment ago
    something is not                          confirms that (the first of it)    yes
    something is not                          is merely slow, and not down       yes
    something is not                          anything else, or nothing          no

At hand is what may be served without asking anybody (`pull.links`); also what other mirrors have
put where all can read it.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, RegistryError, Unavailable
from mirror.oci.manifest import INDEX_TYPES, Manifest, References, parse_references
from mirror.pull.fill.fills import Fills
from mirror.pull.fill.others import Others
from mirror.pull.links import Links, Verdict
from mirror.pull.manifests import Manifests
from mirror.pull.memory import Memory
from mirror.records.ports import Fleet
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.ports import Storage

_LONGEST_OF_NOTHING = 64 * 1024  # bytes, of an index without entries


class Complete:
    """Looks at what is at hand, and asks upstream about the first thing that is not."""

    def __init__(
        self,
        store: Storage,
        links: Links,
        manifests: Manifests,
        registries: Mapping[str, Registry],
        *,
        fills: Fills,
        memory: Memory,
        fleet: Fleet,
        others: Others | None = None,
    ) -> None:
        self._store = store
        self._links = links
        self._manifests = manifests
        self._registries = registries
        self._fills = fills
        self._memory = memory
        self._fleet = fleet
        self._others = others

    async def can_serve(self, scope: Scope, digest: Digest) -> bool:
        """Whether whoever is given this manifest can be given the rest of the image too."""
        manifest = await self._manifests.find_permitted(scope, digest)
        if manifest is None:
            return True  # it was passed through, so upstream has just answered
        references = _parse(manifest)
        if not references.manifests:
            if _is_empty_index(manifest, references):
                return False
            lacking = await self._first_lacking(scope, _needed(references.blobs))
            return lacking is None or await self._has_blob(scope, lacking)
        return await self._can_serve_a_platform(scope, references.manifests)

    async def _can_serve_a_platform(self, scope: Scope, entries: Iterable[Descriptor]) -> bool:
        children = [it.digest for it in entries if it.is_image]
        lacking_blob = None
        stored = await self._store.find_stored(children)
        # Where several mirrors are one, all of them have the manifests that one has.
        elsewhere = await self._fleet.find_manifests([it for it in children if it not in stored])
        for child in [*stored, *elsewhere]:
            references = await self._references(scope, child)
            if references is not None:
                lacking = await self._first_lacking(scope, _needed(references.blobs))
                if lacking is None:
                    return True
                lacking_blob = lacking_blob or lacking
        if lacking_blob is not None and await self._has_blob(scope, lacking_blob):
            return True
        lacking_child = await self._first_lacking(scope, children)
        return lacking_child is not None and await self._has_manifest(scope, lacking_child)

    async def _references(self, scope: Scope, digest: Digest) -> References | None:
        manifest = await self._manifests.find_permitted(scope, digest)
        return None if manifest is None else _parse(manifest)

    async def _first_lacking(self, scope: Scope, wanted: Sequence[Digest]) -> Digest | None:
        """What is not at hand; what is hopeless first."""
        there = await self._find_there(scope, wanted)
        lacking = [digest for digest in wanted if digest not in there]
        hopeless = (it for it in lacking if not self._has_hope(scope, it))
        if (found := next(hopeless, None)) is not None:
            return found
        for digest in wanted:
            if digest not in there:
                return digest
            link = await self._links.find(scope.repository, digest)
            verdict = await self._links.judge(scope.repository, digest, link)
            if verdict is not Verdict.SERVE:
                return digest
        return None

    async def _find_there(self, scope: Scope, wanted: Sequence[Digest]) -> set[Digest]:
        stored = await self._store.find_stored(wanted)
        if self._others is None:
            return stored
        rest = [digest for digest in wanted if digest not in stored]
        return stored | {*await self._others.find_whole(scope.repository.namespace, rest)}

    def _has_hope(self, scope: Scope, digest: Digest) -> bool:
        upstream = scope.repository.namespace
        try:
            self._registries[upstream].require_hope(digest, unknown=ErrorCode.BLOB_UNKNOWN)
            with self._memory.remembering_missing(scope, f"blob {digest}"):
                return not self._fills.was_given_up(upstream, digest)
        except RegistryError:
            return False

    async def _has_blob(self, scope: Scope, digest: Digest) -> bool:
        registry = self._registries[scope.repository.namespace]
        if not self._has_hope(scope, digest):
            return False
        try:
            await self._links.confirm_blob(scope, digest)
        except Unavailable as error:
            return error.timed_out and registry.gives_blobs(scope.repository.name)
        except RegistryError:
            return False
        return True

    async def _has_manifest(self, scope: Scope, digest: Digest) -> bool:
        registry = self._registries[scope.repository.namespace]
        if not registry.gives_manifests(scope.repository.name):
            return False  # HEAD may be answered, and GET is not
        try:
            await registry.confirm_manifest(scope, digest)
        except Unavailable as error:
            return error.timed_out and registry.gives_manifests(scope.repository.name)
        except RegistryError:
            return False
        return True


def _parse(manifest: Manifest) -> References:
    try:
        return parse_references(manifest.content)
    except RegistryError:
        return References()


def _is_empty_index(manifest: Manifest, references: References) -> bool:
    """Accelerators have such: no platform finds itself there, though the registry has the image."""
    if references.media_type not in INDEX_TYPES or manifest.size > _LONGEST_OF_NOTHING:
        return False  # of a large one it may be that too much is named for it to be read
    document = msgspec.json.decode(manifest.content)
    return not document.get("manifests")


def _needed(blobs: Iterable[Descriptor]) -> list[Digest]:
    return [it.digest for it in blobs if not it.is_foreign]
