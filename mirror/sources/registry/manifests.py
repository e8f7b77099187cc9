"""Answers about manifests, as a registry's endpoint gives them."""

from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from mirror.oci.digest import Digest, digest_of, parse_digest
from mirror.oci.errors import Denied, DigestMismatch, ErrorCode, RegistryError
from mirror.oci.manifest import (
    MANIFEST_TYPES,
    MAX_SIZE,
    Manifest,
    References,
    is_media_type,
    parse_references,
)
from mirror.oci.reference import Reference, Tag
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.reading import Senseless

# All four, whatever the client sent: without them, registries convert manifests to older kinds.
_ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}


@dataclass(frozen=True, slots=True)
class TagState:
    """What upstream says of a tag, without sending its manifest.

    `digest` is None where upstream does not name it; `not_modified`: it is what we knew.
    """

    digest: Digest | None
    not_modified: bool = False


async def head_tag(endpoint: Endpoint, scope: Scope, tag: Tag, known: Digest | None) -> TagState:
    """What `tag` means now. Raises as `Endpoint.ask`."""
    headers = _ACCEPT | ({"If-None-Match": f'"{known}"'} if known else {})
    async with endpoint.ask("HEAD", f"manifests/{tag}", scope, headers, kind="tag") as response:
        if response.status == HTTPStatus.NOT_MODIFIED:
            return TagState(known, not_modified=True)
        # Where HEAD is refused (405), the digest is not known either.
        return TagState(_digest_header(response) if response.ok else None)


async def get_manifest(
    endpoint: Endpoint, scope: Scope, reference: Reference
) -> tuple[Manifest, References]:
    """The manifest, proved as far as its digest is known, and read. Raises as `Endpoint.ask`."""
    path = f"manifests/{reference}"
    async with endpoint.ask("GET", path, scope, _ACCEPT, kind=_kind(reference)) as response:
        content = await endpoint.exchange.read(response, limit=MAX_SIZE)
        return _manifest(response, content, reference)


async def confirm_manifest(endpoint: Endpoint, scope: Scope, reference: Reference) -> None:
    """Have it confirm that this repository has this manifest. Raises as `Endpoint.ask`."""
    path, kind = f"manifests/{reference}", _kind(reference)
    try:
        async with endpoint.ask("HEAD", path, scope, _ACCEPT, kind=kind) as response:
            if response.ok:
                return
    except Denied as error:
        if error.code is ErrorCode.UNAUTHORIZED:
            raise  # who does not convince here does not there
    async with endpoint.ask("GET", path, scope, _ACCEPT, kind=kind):
        return


def _kind(reference: Reference) -> str:
    return "tag" if isinstance(reference, Tag) else "manifest"


def _digest_header(response: aiohttp.ClientResponse) -> Digest | None:
    try:
        return parse_digest(response.headers.get("Docker-Content-Digest", ""))
    except RegistryError:
        return None


def _manifest(
    response: aiohttp.ClientResponse, content: bytes, reference: Reference
) -> tuple[Manifest, References]:
    promised = _digest_header(response) if isinstance(reference, Tag) else reference
    if promised is not None and not promised.names(content):
        raise DigestMismatch("upstream sent a manifest that is not what its digest says")
    references = _references(content)
    if isinstance(reference, Tag) and not references.is_manifest:
        # By tag nothing proves the content: a captive portal's page is not a manifest.
        raise Senseless("upstream answered with something that is no manifest")
    declared = response.headers.get("Content-Type", "").partition(";")[0].strip()
    usable = declared if is_media_type(declared) else references.media_type
    media_type = usable or MANIFEST_TYPES[0]
    return Manifest(promised or digest_of(content), media_type, content), references


def _references(content: bytes) -> References:
    try:
        return parse_references(content)
    except RegistryError:
        return References()  # by digest, anything may be a manifest; it refers to nothing we know
