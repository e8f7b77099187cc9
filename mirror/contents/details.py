"""One image, in full: what its tag means, its manifests, its layers, and what refers to it."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mirror.aio.reading import read_aside
from mirror.contents.catalog import Catalog
from mirror.contents.images import find_sharing, find_tags, measure
from mirror.contents.manifests import Manifests, Named, Node, NotHere, PlatformImage
from mirror.contents.models import Image, Layer, Referrer, Step
from mirror.contents.questions import GetImage
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import RegistryError
from mirror.records.ports import Records
from mirror.storage.store import LocalStorage

_MOST_LAYERS = 512  # that are told of
_MOST_REFERRERS = 200
_LONGEST_LIST = 2**20  # bytes of referrers that are read
# cosign's, before registries could list what refers to an image; the last is image-spec 1.1's.
_TAGS_OF_REFERRERS = {".sig": "signature", ".att": "attestation", ".sbom": "SBOM", "": "referrers"}


@dataclass(frozen=True, slots=True)
class Details:
    """Tells of images. `personal` are the upstreams whose content is not everybody's."""

    store: LocalStorage
    records: Records
    catalog: Catalog
    manifests: Manifests
    personal: Collection[str]

    async def get(self, question: GetImage) -> Image:
        """One image. Raises ValueError, NotHere, StoreError."""
        named = await self.manifests.find(question.image)
        nodes = await self.manifests.read_tree(named.digest)
        chosen, trouble = None, None
        try:
            chosen = await self.manifests.choose(nodes, question.platform)
        except NotHere as error:
            trouble = str(error)
        had = await self._had(question.having, chosen) if question.having else frozenset[Digest]()
        path = str(named.repository)
        sizes, tags = await self.catalog.look(measure(path, named.digest))
        layers = [] if chosen is None else await self._layers(named, chosen, had)
        config = None if chosen is None else chosen.config
        small = 0 if config is None else config.size
        new = small if config is not None and config.digest not in had else 0
        return Image(
            name=named.text,
            repository=path,
            upstream=named.repository.namespace,
            is_personal=named.repository.namespace in self.personal,
            digest=str(named.digest),
            meaning=named.meaning,
            tags=tags,
            sizes=sizes,
            manifests=[node.tell() for node in nodes],
            platform="" if chosen is None else chosen.platform,
            config=None if config is None else str(config.digest),
            download=small + sum(_once(layers).values()),
            having=question.having or None,
            missing=new + sum(_once([it for it in layers if it.is_needed]).values()),
            layers=layers,
            history=[] if chosen is None else list(chosen.config_says.history),
            referrers=await self._referrers(named, nodes, chosen),
            trouble=trouble,
        )

    async def _had(self, having: str, chosen: PlatformImage | None) -> frozenset[Digest]:
        """What a host has that has the other image, of the same platform."""
        other = await self.manifests.find(having)
        nodes = await self.manifests.read_tree(other.digest)
        image = await self.manifests.choose(nodes, "" if chosen is None else chosen.platform)
        config = () if image.config is None else (image.config.digest,)
        return frozenset([*config, *(it.digest for it in image.layers)])

    async def _layers(
        self, named: Named, image: PlatformImage, had: Collection[Digest]
    ) -> list[Layer]:
        wanted = image.layers[:_MOST_LAYERS]
        digests = [it.digest for it in wanted]
        here = await self.store.find_stored(digests, can_wait=True)
        sharing = await self.catalog.look(
            find_sharing(digests, repository=str(named.repository), image=named.digest)
        )
        made = {it.layer: it for it in image.config_says.history if it.layer is not None}
        nothing = Step(created=None, created_by="", comment="", layer=None)
        return [
            Layer(
                number=number,
                digest=str(it.digest),
                media_type=it.media_type,
                size=it.size,
                is_here=it.digest in here,
                is_needed=it.digest not in had,
                created=made.get(number, nothing).created,
                created_by=made.get(number, nothing).created_by,
                shared_with=sharing[it.digest][0],
                shared_count=sharing[it.digest][1],
            )
            for number, it in enumerate(wanted)
        ]

    async def _referrers(
        self, named: Named, nodes: Sequence[Node], chosen: PlatformImage | None
    ) -> list[Referrer]:
        subjects = dict.fromkeys([named.digest, *([chosen.digest] if chosen else [])])
        found: dict[str, tuple[str, int | None, str]] = {
            str(it.descriptor.digest): ("attestation", it.descriptor.size, "index")
            for it in nodes
            if it.kind == "attestation"
        }
        for subject in subjects:
            record = await self.records.find_referrers(named.repository, subject)
            if record is not None and len(record.content) <= _LONGEST_LIST:
                listed = await read_aside(_read_list, record.content)
                found |= {digest: (kind, size, "referrers") for digest, kind, size in listed}
            found |= await self._tagged(named, subject)
        some = list(found.items())[:_MOST_REFERRERS]
        here = await self.store.find_stored([parse_digest(it) for it, _ in some], can_wait=True)
        return [
            Referrer(
                digest=digest, kind=kind, size=size, source=source,  # type: ignore[arg-type]
                is_here=parse_digest(digest) in here,
            )
            for digest, (kind, size, source) in some
        ]  # fmt: skip

    async def _tagged(
        self, named: Named, subject: Digest
    ) -> dict[str, tuple[str, int | None, str]]:
        stem = f"{subject.algorithm}-{subject.encoded}"
        names = {f"{stem}{end}": kind for end, kind in _TAGS_OF_REFERRERS.items()}
        rows = await self.catalog.look(find_tags(str(named.repository), list(names)))
        return {str(row.digest): (names[name], None, "tag") for name, row in rows.items()}


def _once(layers: Sequence[Layer]) -> dict[str, int]:
    """Each digest with its size: a layer that is in an image twice is transferred once."""
    return {it.digest: it.size for it in layers}


def _read_list(content: bytes) -> list[tuple[str, str, int | None]]:
    try:
        entries = json.loads(content)["manifests"]
        return list(filter(None, map(_entry, entries[:_MOST_REFERRERS])))
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def _entry(entry: object) -> tuple[str, str, int | None] | None:
    if not isinstance(entry, dict):
        return None
    try:
        digest = parse_digest(str(entry.get("digest", "")))
    except RegistryError:
        return None
    size = entry.get("size")
    kind = str(entry.get("artifactType") or entry.get("mediaType") or "")[:256]
    return str(digest), kind, size if isinstance(size, int) else None
