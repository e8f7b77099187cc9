"""A mirror by itself: always its turn, and nobody else's manifests. Implements `ports.Fleet`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.records.ports import Shelved, TagRecord


class Alone:
    """There are no others."""

    @asynccontextmanager
    async def turn(
        self,
        repository: Repository,  # noqa: ARG002 - the port's
        tag: str,  # noqa: ARG002
        *,
        since: float,  # noqa: ARG002
    ) -> AsyncIterator[TagRecord | None]:
        """It is this mirror's."""
        yield None

    async def find_manifest(self, digest: Digest) -> Shelved | None:  # noqa: ARG002
        """There is none."""
        return None

    async def find_manifests(self, digests: Sequence[Digest]) -> set[Digest]:  # noqa: ARG002
        """There are none."""
        return set()

    async def put_manifest(self, digest: Digest, content: bytes) -> None:
        """Nobody waits for it."""
