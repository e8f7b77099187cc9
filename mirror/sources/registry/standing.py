"""Where an upload stands, by what a registry's answers say of it. Pure.

    Range in an answer             to a PATCH that was sent whole      to a GET of the upload
    none, or no range              all of it is kept                   what had been told before
    0-0                            all of it is kept                   what had been told before
    ends inside what was sent      so much is kept (Google's storage)  so much is kept
    as long as what was sent       all of it is kept (Aliyun, Zot)     so much is kept
    ends before what was sent      all of it is kept (ECR)             what had been told before
    ends beyond what was sent      all of it is kept (Gitea)           so much is kept

"0-0" is what distribution says of nothing as of one byte. Aliyun DevOps and Zot have told the range
of the part instead of the whole, ECR that of the first part for ever, Gitea one byte too many. An
offset that is wrong all the same comes out at the next part, or at the end, by the digest.
"""

import re
from collections.abc import Mapping

from yarl import URL

from mirror.oci.errors import Unavailable
from mirror.sources.registry.addresses import parse_location
from mirror.sources.registry.headers import LARGEST_SIZE, field_value
from mirror.sources.registry.reading import Senseless
from mirror.sources.targets import Standing

_RANGE = re.compile(r"(?:bytes[= ])?0-(\d{1,19})(?:/[\d*]+)?")
_NUMBER = re.compile(r"\d{1,19}")
_LONGEST_LOCATION = 2**14  # characters; it is written down
_HTTP = 80


def begun(headers: Mapping[str, str], *, asked: URL) -> Standing:
    """An upload that has begun (202 to POST). Raises Unavailable: it is nowhere."""
    location = _location(headers, asked)
    if location is None:
        raise Senseless("upstream does not say where to send an upload")
    return Standing(location, 0, _number(headers, "OCI-Chunk-Min-Length"))


def sent(headers: Mapping[str, str], at: Standing, length: int, *, asked: URL) -> Standing:
    """One that has taken `length` bytes more, `at` where it stood. Raises Unavailable."""
    offset, kept = at.offset + length, _kept(headers)
    if at.offset < kept < offset and kept not in {1, length}:
        offset = kept
    return Standing(_location(headers, asked) or str(asked), offset, at.least)


def told(headers: Mapping[str, str], at: Standing, *, asked: URL) -> Standing:
    """One that was asked after. Raises Unavailable."""
    kept = _kept(headers)
    offset = max(at.offset, 0 if kept == 1 else kept)
    return Standing(_location(headers, asked) or str(asked), offset, at.least)


def ending(location: URL, digest: object) -> URL:
    """Where to end an upload: the registry's own query stays as it came (spec end-6)."""
    separator = "&" if location.raw_query_string else "?"
    name = str(digest).replace(":", "%3A")
    return URL(f"{str(location).rstrip('?')}{separator}digest={name}", encoded=True)


def _location(headers: Mapping[str, str], asked: URL) -> str | None:
    """As it came, made whole, and with the scheme and port of `asked` where the host is the same.

    A registry behind a proxy that ends TLS often takes itself for one without it (distribution,
    #2225), and some name the port that their scheme has anyway.
    """
    text = headers.get("Location")
    if not text:
        return None
    if len(text) > _LONGEST_LOCATION or not field_value(text):
        raise Senseless("upstream names no address for an upload")
    try:
        url = parse_location(text, asked=asked)
    except ValueError as error:
        raise Senseless("upstream names no address for an upload") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise Senseless("upstream names no web address for an upload")
    is_downgrade = (asked.scheme, url.scheme) == ("https", "http")
    if url.host == asked.host and (url.port == asked.port or (is_downgrade and url.port == _HTTP)):
        return f"{asked.origin()}{url.raw_path_qs}"
    if is_downgrade:
        raise Unavailable("upstream wants an upload without TLS, on another host")
    return str(url).partition("#")[0]


def _kept(headers: Mapping[str, str]) -> int:
    """How many bytes it says it keeps; 0 where it does not say."""
    match = _RANGE.fullmatch(headers.get("Range", "").strip())
    return min(int(match[1]) + 1, LARGEST_SIZE) if match else 0


def _number(headers: Mapping[str, str], name: str) -> int:
    match = _NUMBER.fullmatch(headers.get(name, "").strip())
    return min(int(match[0]), LARGEST_SIZE) if match else 0
