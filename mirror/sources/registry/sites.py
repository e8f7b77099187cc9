"""What belongs together: hosts of one site, and one question at two registries. Pure."""

import ipaddress
from functools import cache

from publicsuffixlist import PublicSuffixList
from yarl import URL

_API = "/v2/"


def is_same_site(host: str, other: str) -> bool:
    """Whether two hosts are one, or of one registrable domain (publicsuffix.org)."""
    if host == other:
        return True
    domain = _registrable_domain(other)
    return domain is not None and _registrable_domain(host) == domain


def repository_at(url: URL, question: str) -> str | None:
    """Which repository is asked the same question at `url`; None where that is no registry's API.

    `question` is what follows a repository's name, such as `manifests/1` or `tags/list?n=2`.
    """
    path, tail = url.path, f"/{question.partition('?')[0]}"
    if not path.startswith(_API) or not path.endswith(tail):
        return None
    return path[len(_API) : -len(tail)] or None


def _registrable_domain(host: str) -> str | None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _suffixes().privatesuffix(host)
    return None


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()
