"""Answers questions of what is in the cache, in a mirror that runs or in a store at rest."""

import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from mirror.contents import images, models, questions
from mirror.contents.catalog import Catalog
from mirror.contents.details import Details
from mirror.contents.files import LayerFiles
from mirror.contents.leaving import list_leaving
from mirror.contents.manifests import Manifests, NotHere
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import RegistryError
from mirror.oci.image import Aliases, parse_image
from mirror.records.ports import Records
from mirror.storage.store import LocalStorage


@dataclass(frozen=True, slots=True)
class Contents:
    """Use `Contents.open`. All methods raise StoreError, ValueError (no name), NotHere."""

    store: LocalStorage
    catalog: Catalog
    manifests: Manifests
    details: Details
    files: LayerFiles
    personal: Collection[str]  # upstreams with `access = "client"`
    aliases: Aliases
    clock: Callable[[], float]

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        store: LocalStorage,
        records: Records,
        personal: Collection[str],
        aliases: Aliases,
        *,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - of a store at rest, nobody's
    ) -> AsyncIterator["Contents"]:
        """Of a store that is open. `personal`, `aliases`: see above; they may change meanwhile.

        `clock` gives seconds since the epoch.
        """
        async with AsyncExitStack() as stack:
            catalog = await stack.enter_async_context(Catalog.open(store.root))
            manifests = Manifests(store, catalog, aliases)
            yield cls(
                store,
                catalog,
                manifests,
                Details(store, records, catalog, manifests, personal),
                await stack.enter_async_context(LayerFiles.open(store, manifests)),
                personal,
                aliases,
                clock,
            )

    async def list_repositories(self, question: questions.ListRepositories) -> models.Repositories:
        """Which repositories have anything here."""
        return await self.catalog.look(images.list_repositories(question, self.personal))

    async def list_images(self, question: questions.ListImages) -> models.Images:
        """The images of a repository."""
        repository, _ = parse_image(question.repository, self.aliases)
        is_personal = repository.namespace in self.personal
        after = _parse_after(question.after) if ":" in question.after else None
        look = images.list_images(str(repository), question, after, is_personal=is_personal)
        found = await self.catalog.look(look)
        if found is None:
            raise NotHere(f"{repository}: nothing of it is here")
        return found

    async def get_image(self, question: questions.GetImage) -> models.Image:
        """One image."""
        return await self.details.get(question)

    async def list_files(self, question: questions.ListFiles) -> models.Files:
        """What is in an image."""
        return await self.files.list_files(question)

    async def list_layer_files(self, question: questions.ListLayerFiles) -> models.Files:
        """What one layer holds."""
        return await self.files.list_layer(question)

    async def diff_images(self, question: questions.DiffImages) -> models.Diff:
        """What is another way in another image."""
        return await self.files.diff(question)

    async def list_leaving(self, question: questions.ListLeaving) -> models.Leaving:
        """What would go next to make room."""
        return await list_leaving(self.store, self.catalog, question, clock=self.clock)

    async def list_blobs(self, question: questions.ListBlobs) -> models.Blobs:
        """Everything that is here."""
        after = _parse_after(question.after) if question.after else None
        return await self.catalog.look(images.list_blobs(question, after))


def _parse_after(text: str) -> Digest:
    try:
        return parse_digest(text)
    except RegistryError as error:
        raise ValueError(f"after: {error.message}") from error
