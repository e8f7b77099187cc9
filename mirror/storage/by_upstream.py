"""The store as fills see it: writers by upstream and digest (`mirror.storage.ports`)."""

from typing import cast

from mirror.oci.digest import Digest
from mirror.storage.ports import Writer
from mirror.storage.store import Store


class ByUpstream:
    """Gives writers of `store`, which has one for each digest, whoever sends it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def open_writer(self, upstream: str, digest: Digest, size: int | None) -> Writer:  # noqa: ARG002
        """As `Storage.open_writer`."""
        return cast("Writer", await self._store.open_writer(digest, size))
