"""Registries that one redirects to: vanity domains do, and registry.k8s.io.

To such a one its own challenge is answered, without our credentials for the first, and what it says
is a registry's word. What else a registry redirects to is its storage.
"""

from collections.abc import Callable

import aiohttp
from cachetools import LRUCache
from yarl import URL

from mirror.config import Endpoint as EndpointConfig
from mirror.sources.registry.auth import Authorizer
from mirror.sources.registry.sites import repository_at
from mirror.sources.registry.tokens import Access

_REMEMBERED = 16  # registries that one endpoint redirects to


class Elsewhere:
    """The registries that one endpoint redirects to; `make` gives what convinces one of them."""

    def __init__(self, make: Callable[[EndpointConfig], Authorizer]) -> None:
        self._make = make
        self._authorizers: LRUCache[URL, Authorizer] = LRUCache(_REMEMBERED)

    def authorizer_for(
        self, response: aiohttp.ClientResponse, path: str
    ) -> tuple[Authorizer, Access] | None:
        """What convinces who has answered, to pull by its name there; None: it is storage.

        `path` is what was asked of a repository.
        """
        repository = repository_at(response.url, path)
        if repository is None:
            return None
        origin = response.url.origin()
        authorizer = self._authorizers.get(origin)
        if authorizer is None:
            authorizer = self._authorizers[origin] = self._make(EndpointConfig(url=str(origin)))
        return authorizer, Access(repository)


def registry_that_answered(response: aiohttp.ClientResponse, asked: URL, path: str) -> URL:
    """Where the same was asked of the registry that has answered; `asked` where storage has."""
    if response.url.origin() == asked.origin() or repository_at(response.url, path) is None:
        return asked
    return response.url
