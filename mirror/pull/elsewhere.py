"""Manifests that another mirror was sent: taken over with who has sent them.

Rights do not come with them: whether a repository may be served one is judged by its links, as for
what is on this disk. Blobs come another way (`mirror.shared`).
"""

from mirror.aio.reading import read_aside
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError, StoreError
from mirror.oci.manifest import Manifest, References, media_type_of, parse_references
from mirror.oci.reference import Repository
from mirror.pull.keeping import try_to_keep
from mirror.pull.links import Links
from mirror.records.ports import Fleet, Records
from mirror.storage.ports import Storage


class Elsewhere:
    """Looks for manifests where other mirrors have put them."""

    def __init__(self, fleet: Fleet, store: Storage, records: Records, links: Links) -> None:
        self._fleet = fleet
        self._store = store
        self._records = records
        self._links = links

    async def find(self, repository: Repository, digest: Digest) -> bytes | None:
        """The bytes of a manifest that another mirror was sent; then they are here, too."""
        shelved = await self._fleet.find_manifest(digest)
        if shelved is None:
            return None
        try:
            for sender in shelved.senders:  # before they are kept, as always
                await self._links.record_sent(sender, digest)
        except StoreError:
            return None
        await self._learn(repository, digest, shelved.content)
        upstream = min(shelved.senders)
        await try_to_keep(self._store.keep(upstream, digest, shelved.content, is_manifest=True))
        return shelved.content

    async def _learn(self, repository: Repository, digest: Digest, content: bytes) -> None:
        """Have on record here what it names, where the repository is known to have it."""
        link = await self._links.find(repository, digest)
        if link is None or not link.stands:
            return
        said = await self._records.find_media_type(repository.namespace, digest)
        references = await read_aside(_references, content)
        media_type = media_type_of(references, said)
        if media_type is None:
            return
        manifest = Manifest(digest, media_type, content)
        await try_to_keep(
            self._links.record_manifest(repository, manifest, references, is_sent=link.is_sent)
        )


def _references(content: bytes) -> References:
    try:
        return parse_references(content)
    except RegistryError:
        return References()
