"""A pull request's path and query, parsed once into a value.

The raw path is read, by the spec's grammar and nothing else: an encoded slash, an empty or a dot
segment is never a repository name (frameworks decode and normalise before anyone can tell).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated
from urllib.parse import parse_qsl, unquote

from msgspec import Meta

from mirror.oci.digest import Digest, Subject, parse_digest, parse_subject
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.reference import Reference, parse_reference, parse_repository

TOKENS = "/v2/_token/"
"""Below it, token servers are asked; no repository's name begins with "_"."""

_TOKENS = re.compile(rf"{TOKENS}([0-9a-f]{{16}})/([^/?#]+)(?:\?([^#]{{0,8192}}))?")
_PAGE_LENGTH = re.compile(r"[0-9]{1,9}")

_ARTIFACT_TYPE = "artifactType"
_MOST_PARAMETERS = 32
_LONGEST_QUERY = 4096  # characters; registries' own marks in a `Link` take up to two thousand

# Clients ask for the same things again and again. Some 2 KiB each: 8 MiB in each process.
_REMEMBERED = 4096
_LONGEST_REMEMBERED = 512
_MOST_REMEMBERED_PARAMETERS = 4

_ABSOLUTE = re.compile(r"https?://(?P<authority>[^/?#@]+)(?=/)", re.ASCII | re.IGNORECASE)
_PORT = re.compile(r"[a-z0-9]+(?:[.-]+[a-z0-9]+)*:[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Ping:
    """end-1: GET /v2/."""


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """end-2: GET, HEAD /v2/<name>/blobs/<digest>."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class ManifestRequest:
    """end-3: GET, HEAD /v2/<name>/manifests/<reference>."""

    name: str
    reference: Reference


@dataclass(frozen=True, slots=True)
class Page:
    """Where a listing starts and how long it may be.

    `extra` is whatever else a registry's own `Link` asked to be sent back (Quay's `next_page`).
    """

    n: Annotated[int, Meta(ge=0, lt=10**9)] | None = None  # nobody pages by a milliard
    last: str | None = None
    extra: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TagsRequest:
    """end-8: GET /v2/<name>/tags/list."""

    name: str
    page: Page


@dataclass(frozen=True, slots=True)
class ReferrersRequest:
    """end-12: GET /v2/<name>/referrers/<digest>.

    `page`: what else the query holds, if a registry's own `Link` asked for that.
    """

    name: str
    subject: Subject
    artifact_type: str | None
    page: Page = Page()


@dataclass(frozen=True, slots=True)
class CatalogRequest:
    """distribution's GET /v2/_catalog; here, what is cached."""

    page: Page


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """GET, POST `TOKENS`<server>/<upstream>: what a token server is asked by way of us."""

    upstream: str
    server: str
    query: str


Request = (
    Ping
    | BlobRequest
    | ManifestRequest
    | TagsRequest
    | ReferrersRequest
    | CatalogRequest
    | TokenRequest
)


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed request, and the registry its `ns` parameter names (spec, "Registry Proxying")."""

    request: Request
    ns: str | None


def parse_target(raw: str) -> Target:
    """Read a request target such as `/v2/library/alpine/manifests/3.20?ns=docker.io`.

    Raises:
        RegistryError: `NAME_INVALID`, `DIGEST_INVALID`, `MANIFEST_UNKNOWN`,
            `PAGINATION_NUMBER_INVALID`, or `NAME_UNKNOWN` for a path that is none of the spec's.
    """
    if raw.startswith(TOKENS):
        return Target(_parse_token_request(raw), None)  # and it is not remembered
    if len(raw) <= _LONGEST_REMEMBERED and raw.count("&") < _MOST_REMEMBERED_PARAMETERS:
        return _remember_target(raw)
    return _parse_target(raw)


def origin_form(raw: str, host: str) -> tuple[str, str]:
    """A request target as it is parsed, and the host that it is for.

    A target with an address, as proxies are shown, says the host itself: what the `Host` field says
    then counts for nothing (RFC 9112, 3.2.2).
    """
    match = _ABSOLUTE.match(raw)
    if match is None:
        return raw, host
    return raw[match.end() :], match["authority"]


def split_target(raw: str) -> tuple[str, Mapping[str, str]]:
    """A request target's path, and the parameters of its query.

    Raises:
        RegistryError: `NAME_INVALID`, for what is none, or has too many parameters.
    """
    if not raw.isascii():
        raise RegistryError(ErrorCode.NAME_INVALID, "a request target is ASCII (RFC 9112, 3.2)")
    path, _, query = raw.partition("?")
    parameters = _parse_query(query) if query else {}
    if "%" in path:  # Some clients escape the colon of a digest; nothing else needs it.
        path = path.replace("%3A", ":").replace("%3a", ":")
    return path, parameters


def _parse_target(raw: str) -> Target:
    path, parameters = split_target(raw)
    return Target(_parse_path(path, parameters), parse_namespace(parameters.get("ns")))


_remember_target = lru_cache(maxsize=_REMEMBERED)(_parse_target)


def _parse_query(query: str) -> Mapping[str, str]:
    if len(query) > _LONGEST_QUERY or query.count("&") >= _MOST_PARAMETERS:
        raise RegistryError(
            ErrorCode.NAME_INVALID,
            f"a query of more than {_MOST_PARAMETERS} parameters or {_LONGEST_QUERY} characters",
        )
    pairs = parse_qsl(query)
    if sum(name == _ARTIFACT_TYPE for name, _ in pairs) > 1:
        # containerd asks for several types at once, and filters what it gets itself; the spec knows
        # of one. To filter by none is allowed, and loses nothing.
        pairs = [pair for pair in pairs if pair[0] != _ARTIFACT_TYPE]
    return dict(pairs)


def _parse_path(path: str, parameters: Mapping[str, str]) -> Request:
    if path in {"/v2/", "/v2"}:
        return Ping()
    if path == "/v2/_catalog":
        return CatalogRequest(_page(parameters))
    # A repository may itself hold the words "blobs" or "manifests": read from the right.
    head, _, last = path.rpartition("/")
    name, _, noun = head.rpartition("/")
    if not path.startswith("/v2/") or noun not in {"manifests", "blobs", "tags", "referrers"}:
        raise RegistryError(ErrorCode.NAME_UNKNOWN, "no such path in a registry's API")
    repository = parse_name(name.removeprefix("/v2/"))
    if noun == "manifests":
        return ManifestRequest(repository, parse_reference(last))
    if noun == "blobs":
        return BlobRequest(repository, parse_digest(last))
    if noun == "referrers":
        others = {name: value for name, value in parameters.items() if name != _ARTIFACT_TYPE}
        artifact_type = parameters.get(_ARTIFACT_TYPE) or None
        return ReferrersRequest(repository, parse_subject(last), artifact_type, _page(others))
    if last != "list":
        raise RegistryError(ErrorCode.NAME_UNKNOWN, "no such path in a registry's API")
    return TagsRequest(repository, _page(parameters))


def _parse_token_request(raw: str) -> TokenRequest:
    match = _TOKENS.fullmatch(raw)
    if match is None or not raw.isascii() or not raw.isprintable() or " " in raw:
        raise RegistryError(ErrorCode.NAME_UNKNOWN, "no token server's address has this form")
    server, upstream, query = match.groups()
    return TokenRequest(unquote(upstream).lower(), server, query or "")


def parse_name(text: str) -> str:
    """A repository's name, perhaps behind its registry's, as in `registry.local:5000/org/app`.

    Raises:
        RegistryError: `NAME_INVALID`.
    """
    first, _, rest = text.partition("/")
    if rest and _PORT.fullmatch(first):
        parse_repository(rest)
        return text
    return parse_repository(text)


def _page(parameters: Mapping[str, str]) -> Page:
    n = parameters.get("n")
    if n is not None and _PAGE_LENGTH.fullmatch(n) is None:
        raise RegistryError(ErrorCode.PAGINATION_NUMBER_INVALID, "n is not a number of entries")
    extra = tuple((k, v) for k, v in parameters.items() if k not in {"n", "last", "ns"})
    return Page(None if n is None else int(n), parameters.get("last"), extra)


def parse_namespace(text: str | None) -> str | None:
    """What `ns` says: a lookup key and never an address, so its grammar does not matter here."""
    return None if text is None else text.lower()
