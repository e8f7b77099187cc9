"""What each endpoint says of an image, beside what is here: whose bytes are these?

Asked is by HEAD, which costs no pull: for the tag, for the manifest that is here, and for its
layers. What has another digest is older or newer by what its configuration says; where that is not
here, GET tells it, if the operator wants to pay for it. An endpoint that has asked for a pause is
not asked.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from mirror.contents.image_config import MAX_SIZE as LARGEST_CONFIG, parse_config
from mirror.contents.manifests import Manifests, Named, NotHere, PlatformImage
from mirror.contents.models import Compared, Comparison
from mirror.contents.questions import CompareImage
from mirror.oci.digest import Digest
from mirror.oci.errors import Missing, RegistryError
from mirror.oci.image import parse_image
from mirror.oci.manifest import References
from mirror.oci.reference import Tag
from mirror.oci.repositories import Selection
from mirror.sources.registry.blobs import head_blob
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.manifests import confirm_manifest, get_manifest, head_tag
from mirror.sources.registry.reading import reading
from mirror.sources.registry.registry import Registry

_MOST_LAYERS = 32  # that are asked for at an endpoint
_SECONDS = 19  # characters of a time, up to its seconds
_DEPTH = 2  # manifests, from an index to a configuration

_NO_HEAD = "HEAD does not tell: --pull asks by GET, which counts as a pull"

Verdict = Literal["same", "older", "newer", "differs", "absent", "unknown"]

_BY_DIGEST: Mapping[bool | None, Verdict] = MappingProxyType(
    {True: "same", False: "absent", None: "unknown"}
)


@dataclass(frozen=True, slots=True)
class _Here:
    """The image as it is here, if it is."""

    named: Named | None
    image: PlatformImage | None
    created: str | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What every endpoint is asked."""

    scope: Scope
    here: _Here
    platform: str
    may_get: bool


@dataclass(slots=True)
class _Said:
    """What is found out of an endpoint."""

    verdict: Verdict = "unknown"
    digest: Digest | None = None
    created: str | None = None
    has_manifest: bool | None = None
    layers: int = 0
    trouble: list[str] = field(default_factory=list)
    pulls: int = 0


@dataclass(frozen=True, slots=True)
class Comparing:
    """Asks endpoints. `personal` are the upstreams at which the mirror has nothing to show.

    `registries` may hold such as are configured no longer: those that are have what is `served`.
    """

    registries: Mapping[str, Registry]
    served: Mapping[str, Selection]
    manifests: Manifests
    personal: Collection[str]

    async def compare(self, question: CompareImage) -> Comparison:
        """Ask them all. Raises ValueError, NotHere."""
        repository, reference = parse_image(question.image, self.manifests.aliases)
        registry = self.registries.get(repository.namespace)
        if registry is None or repository.namespace not in self.served:
            raise NotHere(f"{repository.namespace} is no upstream of this mirror")
        if repository.name not in self.served[repository.namespace]:
            raise NotHere(f"{repository}: by allow or deny of its upstream it is not served")
        here = await self._here(question)
        scope = Scope(repository, "" if repository.namespace in self.personal else None)
        platform = question.platform or (here.image.platform if here.image else "")
        asked = _Asked(scope, here, platform, question.pull)
        told = []
        for endpoint in registry.endpoints:
            said = _Said()
            if isinstance(reference, Tag):
                await self._ask_for_tag(endpoint, reference, asked, said)
            if here.named is not None:
                await _ask_for_bytes(endpoint, here.named.digest, asked, said)
            if not isinstance(reference, Tag):
                said.verdict = _BY_DIGEST[said.has_manifest]
            told.append(_tell(endpoint, said, here.image))
        meaning = None if here.named is None else here.named.meaning
        return Comparison(
            name=question.image,
            digest=None if here.named is None else str(here.named.digest),
            created=here.created,
            checked_at=None if meaning is None or meaning.is_imported else meaning.checked_at,
            endpoints=told,
        )

    async def _here(self, question: CompareImage) -> _Here:
        named = image = None
        with suppress(NotHere):
            named = await self.manifests.find(question.image)
            nodes = await self.manifests.read_tree(named.digest)
            image = await self.manifests.choose(nodes, question.platform)
        return _Here(named, image, None if image is None else image.config_says.created)

    async def _ask_for_tag(self, endpoint: Endpoint, tag: Tag, asked: _Asked, said: _Said) -> None:
        try:
            with reading(endpoint.config.url):
                said.digest = (await head_tag(endpoint, asked.scope, tag, None)).digest
                if said.digest is None and asked.may_get:
                    said.pulls += 1
                    sent = await get_manifest(endpoint, asked.scope, tag)
                    said.digest = sent.manifest.digest
        except Missing:
            said.verdict = "absent"
            return
        except RegistryError as error:
            said.trouble.append(error.message)
            return
        here = asked.here
        if said.digest is None:
            said.trouble.append(_NO_HEAD)
        elif here.named is not None and here.named.digest == said.digest:
            said.verdict, said.created = "same", here.created
        else:
            said.created = await self._created(endpoint, said.digest, asked, said)
            said.verdict = _judge(here.created, said.created)

    async def _created(
        self, endpoint: Endpoint, digest: Digest, asked: _Asked, said: _Said
    ) -> str | None:
        """When what an endpoint means was made; of what is here, nobody is asked."""
        with suppress(NotHere):
            nodes = await self.manifests.read_tree(digest)
            return (await self.manifests.choose(nodes, asked.platform)).config_says.created
        if not asked.may_get:
            return None
        wanted: Digest | None = digest
        try:
            with reading(endpoint.config.url):
                for _ in range(_DEPTH):
                    if wanted is None:
                        break
                    said.pulls += 1
                    references = (await get_manifest(endpoint, asked.scope, wanted)).references
                    if references.config is not None:
                        config = references.config.digest
                        return await _config_created(endpoint, asked.scope, config)
                    wanted = _entry(references, asked.platform)
        except RegistryError as error:
            said.trouble.append(error.message)
        return None


async def _ask_for_bytes(endpoint: Endpoint, digest: Digest, asked: _Asked, said: _Said) -> None:
    """Whether it has what is here."""
    scope, image = asked.scope, asked.here.image
    if not (asked.may_get or endpoint.heads.are_useful(scope.repository.name)):
        said.trouble.append(_NO_HEAD)
        return
    try:
        with reading(endpoint.config.url):
            await confirm_manifest(endpoint, scope, digest)
            said.has_manifest = True
    except Missing:
        said.has_manifest = False
    except RegistryError as error:
        said.trouble.append(error.message)
        return
    for layer in [] if image is None else image.layers[:_MOST_LAYERS]:
        try:
            with reading(endpoint.config.url):
                await head_blob(endpoint, scope, layer.digest)
            said.layers += 1
        except Missing:
            continue
        except RegistryError as error:
            said.trouble.append(error.message)
            return


async def _config_created(endpoint: Endpoint, scope: Scope, digest: Digest) -> str | None:
    async with endpoint.ask("GET", f"blobs/{digest}", scope, {}, kind="blob") as response:
        content = await endpoint.exchange.read(response, limit=LARGEST_CONFIG)
    return parse_config(content).created if digest.names(content) else None


def _entry(references: References, platform: str) -> Digest | None:
    for entry in references.manifests:
        its = "" if entry.platform is None else str(entry.platform)
        if not platform or its == platform or its.startswith(f"{platform}/"):
            return entry.digest
    return None


def _judge(here: str | None, there: str | None) -> Verdict:
    if here is None or there is None or here[:_SECONDS] == there[:_SECONDS]:
        return "differs"
    return "older" if there < here else "newer"


def _tell(endpoint: Endpoint, said: _Said, image: PlatformImage | None) -> Compared:
    return Compared(
        endpoint=endpoint.name,
        url=endpoint.config.url,
        tags=str(endpoint.config.tags).lower(),
        verdict=said.verdict,
        digest=None if said.digest is None else str(said.digest),
        created=said.created,
        has_manifest=said.has_manifest,
        layers=said.layers,
        of_layers=0 if image is None else len(image.layers[:_MOST_LAYERS]),
        trouble="; ".join(dict.fromkeys(said.trouble)) or None,
        pulls=said.pulls,
        pulls_left=endpoint.condition.quota[1],
    )
