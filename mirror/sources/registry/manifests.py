"""Answers about manifests, as a registry's endpoint gives them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus

import aiohttp

from mirror.aio.reading import read_aside
from mirror.oci.digest import Digest, Subject, digest_of, parse_digest
from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    Missing,
    Refused,
    RegistryError,
    Unavailable,
)
from mirror.oci.manifest import (
    MANIFEST_TYPES,
    MAX_SIZE,
    Manifest,
    References,
    media_type_of,
    parse_references,
)
from mirror.oci.reference import Reference, Tag
from mirror.oci.signed import SIGNED_MANIFEST, payload_of
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.reading import Senseless

# All four, whatever the client sent: without them, registries convert manifests to older kinds.
# And as containerd does, anything else: artifacts of 2022 have types of their own.
_ACCEPT = {"Accept": ", ".join([*MANIFEST_TYPES, "*/*"])}


@dataclass(frozen=True, slots=True)
class TagState:
    """What upstream says of a tag, without sending its manifest.

    `digest` is None where upstream does not name it; `not_modified`: it is what we knew;
    `is_fallback`, `told_by`: as `SentManifest` has it.
    """

    digest: Digest | None
    not_modified: bool = False
    is_fallback: bool = False
    told_by: str = ""


@dataclass(frozen=True, slots=True)
class SentManifest:
    """A manifest that upstream has sent, and what it refers to.

    `is_fallback`: by tag, of an endpoint that may say what a tag means only in an outage;
    `told_by` is the endpoint's name.
    """

    manifest: Manifest
    references: References
    is_fallback: bool = False
    told_by: str = ""


async def head_tag(endpoint: Endpoint, scope: Scope, tag: Tag, known: Digest | None) -> TagState:
    """What `tag` means now. Raises as `Endpoint.ask`."""
    headers = _ACCEPT | ({"If-None-Match": f'"{known}"'} if known else {})
    async with _asking_by_head(endpoint, scope, tag, headers) as response:
        if response is None:
            return TagState(None)
        if response.status == HTTPStatus.NOT_MODIFIED:
            return TagState(known, not_modified=True, told_by=endpoint.name)
        return TagState(_digest_header(response), told_by=endpoint.name)


async def get_manifest(endpoint: Endpoint, scope: Scope, reference: Reference) -> SentManifest:
    """The manifest, proved as far as its digest is known, and read. Raises as `Endpoint.ask`."""
    path = f"manifests/{reference}"
    async with endpoint.ask("GET", path, scope, _ACCEPT, kind=_kind(reference)) as response:
        content = await endpoint.exchange.read(response, limit=MAX_SIZE)
        endpoint.heads.answered_by_get(scope.repository.name, str(reference))
        promised = _digest_header(response) if isinstance(reference, Tag) else reference
        try:
            sent = await read_aside(partial(_manifest, response, reference, promised), content)
            return replace(sent, told_by=endpoint.name)
        except DigestMismatch as error:
            if promised is None or not isinstance(reference, Tag):
                raise
            mismatch = error
    # What docker and containerd take from the answer to a tag is its digest, and ask for that.
    with suppress(Missing):
        return await get_manifest(endpoint, scope, promised)
    raise mismatch


async def confirm_manifest(endpoint: Endpoint, scope: Scope, reference: Tag | Subject) -> None:
    """Have it confirm that this repository has this manifest. Raises as `Endpoint.ask`."""
    async with _asking_by_head(endpoint, scope, reference, _ACCEPT) as response:
        if response is not None:
            return
    path, kind = f"manifests/{reference}", _kind(reference)
    async with endpoint.ask("GET", path, scope, _ACCEPT, kind=kind):
        endpoint.heads.answered_by_get(scope.repository.name, str(reference))


@asynccontextmanager
async def _asking_by_head(
    endpoint: Endpoint, scope: Scope, reference: Tag | Subject, headers: dict[str, str]
) -> AsyncIterator[aiohttp.ClientResponse | None]:
    """A HEAD's answer; None where it is refused, always is, or fails (500): then GET decides.

    Raises as `Endpoint.ask`, and Denied where a client has shown nothing: it is to hear at once
    that it must.
    """
    repository, path = scope.repository.name, f"manifests/{reference}"
    if not endpoint.heads.are_useful(repository):
        yield None
        return
    async with AsyncExitStack() as stack:
        response = None
        try:
            response = await stack.enter_async_context(
                endpoint.ask("HEAD", path, scope, headers, kind=_kind(reference))
            )
        except (Denied, Missing, Refused) as error:
            if isinstance(error, Denied) and scope.authorization == "":
                raise
            endpoint.heads.refused(repository, str(reference))
        except Unavailable as error:
            # Some fail at HEAD alone. That is not remembered: it may pass, and a GET may be a pull.
            if error.status_seen != HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
        yield response


def _kind(reference: Tag | Subject) -> str:
    return "tag" if isinstance(reference, Tag) else "manifest"


def _digest_header(response: aiohttp.ClientResponse) -> Digest | None:
    try:
        return parse_digest(response.headers.get("Docker-Content-Digest", ""))
    except RegistryError:
        return None


def _manifest(
    response: aiohttp.ClientResponse,
    reference: Reference,
    promised: Digest | None,
    content: bytes,
) -> SentManifest:
    if promised is None or not promised.names(content):
        payload = payload_of(content)
        if payload is not None and (promised is None or promised.names(payload)):
            digest = promised or digest_of(payload)
            manifest = Manifest(digest, SIGNED_MANIFEST, content, is_signed=True)
            return SentManifest(manifest, References())
    if promised is not None and not promised.names(content):
        raise DigestMismatch("upstream sent a manifest that is not what its digest says")
    references = _references(content)
    if isinstance(reference, Tag) and not references.is_manifest:
        # By tag nothing proves the content: a captive portal's page is not a manifest.
        raise Senseless("upstream answered with something that is no manifest")
    declared = response.headers.get("Content-Type", "").partition(";")[0].strip()
    media_type = media_type_of(references, declared) or MANIFEST_TYPES[0]
    manifest = Manifest(promised or digest_of(content), media_type, content)
    return SentManifest(manifest, references)


def _references(content: bytes) -> References:
    try:
        return parse_references(content)
    except RegistryError:
        return References()  # by digest, anything may be a manifest; it refers to nothing we know
