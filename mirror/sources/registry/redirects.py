"""Where a registry may lead a request: what it redirects to, and what it names. Pure."""

from yarl import URL

from mirror.config import Endpoint as EndpointConfig
from mirror.oci.errors import Unavailable
from mirror.sources.registry.addresses import parse_location
from mirror.sources.registry.sites import is_same_site, repository_at

MOST_REDIRECTS = 10
"""In a row, as Go's clients follow."""

_BY_DIGEST = frozenset({"blob", "manifest"})  # kinds whose content proves itself
_ON_SITE = frozenset({"tags", "referrers", "token"})  # kinds whose content nothing proves
_SAFE = frozenset({"GET", "HEAD"})  # RFC 9110, 9.2.1
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KEEP_METHOD = REDIRECTS - {303}  # RFC 9110, 15.4.4


def leads_on(method: str, status: int) -> bool:
    """Whether a request is to be sent again, to where an answer of this status leads."""
    return status in (REDIRECTS if method in _SAFE else _KEEP_METHOD)


def redirected(
    asked: URL, at: URL, location: str, *, config: EndpointConfig, kind: str, status: int
) -> URL:
    """Where the answer from `at` leads what was `asked` first.

    Raises:
        Unavailable: It leads to no address, or to where this kind of request does not go.
    """
    target = _target(at, location, config, kind, status)
    _require_own_site(asked, target, kind, status)
    return target


def _target(at: URL, location: str, config: EndpointConfig, kind: str, status: int) -> URL:
    try:
        target = parse_location(location, asked=at)
    except ValueError as error:
        raise Unavailable("upstream redirects to what is no address", status_seen=status) from error
    if target.scheme not in {"http", "https"} or not target.host:
        raise Unavailable("upstream redirects to what is no web address", status_seen=status)
    is_downgrade = (at.scheme, target.scheme) == ("https", "http")
    if is_downgrade and not (config.allow_http_redirect and kind in _BY_DIGEST):
        raise Unavailable(
            "upstream redirects from https to http;"
            " allow_http_redirect = true lets content by digest come that way",
            status_seen=status,
        )
    return target


def _require_own_site(asked: URL, target: URL, kind: str, status: int) -> None:
    """See that what no digest proves comes from its own site, or from another registry's API.

    Raises:
        Unavailable: It would come from somewhere else.
    """
    if kind not in _ON_SITE or is_same_site(target.host or "", asked.host or ""):
        return
    _, found, rest = asked.path.rpartition(f"/{kind}/")
    if kind == "token" or repository_at(target, f"{found}{rest}".lstrip("/")) is None:
        raise Unavailable(
            "upstream redirects to another site for what no digest proves", status_seen=status
        )
