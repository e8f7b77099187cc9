"""Links: which repository may serve which digest, as far as manifests or upstream have said.

Kept in memory and in the catalog; what neither knows is asked of upstream, once.
"""

from collections.abc import Mapping

from mirror.aio.single_flight import SingleFlight
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.pull.keeping import try_to_keep
from mirror.pull.memory import Memory
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.catalog import Catalog, Link


class Links:
    """Finds links, and has upstream confirm new ones."""

    def __init__(
        self,
        catalog: Catalog,
        memory: Memory,
        registries: Mapping[str, Registry],
        flights: SingleFlight[object, int],
    ) -> None:
        self._catalog = catalog
        self._memory = memory
        self._registries = registries
        self._flights = flights

    async def find_size(self, repository: Repository, digest: Digest) -> int | None:
        """The size in bytes of a digest that the repository has; None where that is not known."""
        size = self._memory.linked_size(repository, digest)
        if size is None:
            size = await self._catalog.find_link(repository, digest)
            if size is not None:
                self._memory.keep_link(repository, digest, size)
        return size

    async def record(self, repository: Repository, digest: Digest, size: int) -> None:
        """The repository has this digest."""
        if self._memory.linked_size(repository, digest) is None:
            self._memory.keep_link(repository, digest, size)
            await try_to_keep(self._catalog.record_links(repository, [Link(digest, size)]))

    async def confirm_blob(self, scope: Scope, digest: Digest) -> int:
        """Have upstream confirm that the repository has a blob; its size in bytes.

        Raises:
            Missing, Denied, Unavailable: It has not, or does not say.
        """

        async def ask() -> int:
            registry = self._registries[scope.repository.namespace]
            with self._memory.remembering_missing(scope, f"blob {digest}"):
                size = await registry.head_blob(scope, digest)
            await self.record(scope.repository, digest, size)
            return size

        return await self._flights.join(("blob", scope, digest), ask)
