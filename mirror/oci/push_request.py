"""A push request's path and query, parsed once into a value (spec, "Pushing").

Which of them are of pushes is told by the method and the path together: nothing that a client
pulls begins so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.reference import Reference, parse_reference
from mirror.oci.request import parse_name, parse_namespace, split_target

_UPLOADS = "/blobs/uploads/"
_PATH = re.compile(rf"/v2/(?P<name>.+){_UPLOADS}(?P<identity>[^/]*)")
_MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")
_RANGE = re.compile(r"(?:bytes[ =])?(?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})(?:/.*)?")
_OF_AN_UPLOAD = frozenset({"GET", "HEAD", "PATCH", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True)
class UploadsRequest:
    """end-4a, end-4b, end-11: POST /v2/<name>/blobs/uploads/.

    `mount`: a blob that another repository, `source`, has. `digest`: of the body, which is all.
    """

    name: str
    mount: Digest | None = None
    source: str | None = None
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """end-5, end-6, end-13, end-14: PATCH, PUT, GET, DELETE of one upload.

    `digest` of what it is to be, which ends it.
    """

    name: str
    identity: str
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class ManifestPush:
    """end-7: PUT /v2/<name>/manifests/<reference>."""

    name: str
    reference: Reference


PushRequest = UploadsRequest | UploadRequest | ManifestPush


@dataclass(frozen=True, slots=True)
class PushTarget:
    """A parsed request, and the registry its `ns` parameter names."""

    request: PushRequest
    ns: str | None


def may_be_push(method: str, raw: str) -> bool:
    """Whether it cannot be a pull; cheap, for every pull is asked."""
    return method not in {"GET", "HEAD"} or _UPLOADS in raw


def parse_push(method: str, raw: str) -> PushTarget | None:
    """Read a request of a push; None for what is none of them.

    Raises:
        RegistryError: `NAME_INVALID`, `DIGEST_INVALID`, `MANIFEST_UNKNOWN` for what cannot be a
            tag.
    """
    path, parameters = split_target(raw)
    if method == "POST" and path.endswith(_UPLOADS.rstrip("/")):
        path += "/"  # distribution redirects to there, and clients know no better
    request = _parse(method, path, parameters)
    return None if request is None else PushTarget(request, parse_namespace(parameters.get("ns")))


def parse_content_range(header: str | None) -> tuple[int, int] | None:
    """What a chunk says it is: from where to where, exclusive (end-5); None: it does not say.

    Raises:
        RegistryError: `BLOB_UPLOAD_INVALID`, for what is no range.
    """
    if header is None:
        return None
    match = _RANGE.fullmatch(header.strip())
    first, last = (0, -2) if match is None else (int(match["first"]), int(match["last"]))
    if last < first - 1:  # an empty chunk ends before it begins
        raise RegistryError(ErrorCode.BLOB_UPLOAD_INVALID, "Content-Range is <first>-<last>")
    return first, last + 1


def _parse(method: str, path: str, parameters: Mapping[str, str]) -> PushRequest | None:
    if (match := _PATH.fullmatch(path)) is not None:
        if method == "POST" and not match["identity"]:
            return _uploads(parse_name(match["name"]), parameters)
        if method in _OF_AN_UPLOAD and match["identity"]:
            name = parse_name(match["name"])
            return UploadRequest(name, match["identity"], _digest(parameters, "digest"))
        return None
    if method == "PUT" and (match := _MANIFEST.fullmatch(path)) is not None:
        return ManifestPush(parse_name(match["name"]), parse_reference(match["reference"]))
    return None


def _uploads(name: str, parameters: Mapping[str, str]) -> UploadsRequest:
    source = parameters.get("from")
    return UploadsRequest(
        name,
        _digest(parameters, "mount"),
        None if source is None else parse_name(source),
        _digest(parameters, "digest"),
    )


def _digest(parameters: Mapping[str, str], name: str) -> Digest | None:
    text = parameters.get(name)
    return None if text is None else parse_digest(text)
