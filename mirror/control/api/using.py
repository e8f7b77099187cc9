"""What is in the cache, with what was pulled of it: contents and history, laid side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from mirror.contents.contents import Contents
from mirror.contents.models import Images, Repositories
from mirror.contents.questions import ListImages, ListRepositories
from mirror.history.ports import DAY, Use

_SINCE = 30 * DAY  # seconds; so long, pulls are kept
_NOTHING = Use(0, 0, 0)


class Uses(Protocol):
    """Knows what was pulled; as `History`."""

    async def sum_repositories(self, repositories: Sequence[str], since: float) -> dict[str, Use]:
        """Of repositories."""

    async def sum_images(
        self, repository: str, digests: Sequence[str], since: float
    ) -> dict[str, Use]:
        """Of a repository's images."""


@dataclass(frozen=True, slots=True)
class Using:
    """Answers as `contents` does, and adds what `past` knows. `clock` in epoch seconds."""

    contents: Contents
    past: Uses
    clock: Callable[[], float]

    async def list_repositories(self, question: ListRepositories) -> Repositories:
        """Repositories. Raises as `Contents`."""
        found = await self.contents.list_repositories(question)
        names = [it.name for it in found.repositories]
        uses = await self.past.sum_repositories(names, self._since)
        listed = [
            replace(it, pulls=use.pulls, served=use.served, fetched=use.fetched)
            for it in found.repositories
            for use in [uses.get(it.name, _NOTHING)]
        ]
        return replace(found, repositories=listed)

    async def list_images(self, question: ListImages) -> Images:
        """A repository's images. Raises as `Contents`."""
        found = await self.contents.list_images(question)
        digests = [it.digest for it in found.images]
        uses = await self.past.sum_images(found.repository, digests, self._since)
        listed = [
            replace(it, pulls=use.pulls, served=use.served, fetched=use.fetched)
            for it in found.images
            for use in [uses.get(it.digest, _NOTHING)]
        ]
        return replace(found, images=listed)

    @property
    def _since(self) -> float:
        return self.clock() - _SINCE
