"""What registries have said to any of several mirrors: this one's own records, and the shared ones.

    what                         is asked of                       the other is asked
    links, senders, types        this mirror's own                 where they do not suffice
    tags, referrers              the shared ones, and its own      the newer word counts
    what is on this disk, lists  this mirror's own                 never

    what is learnt               stands in this mirror's own at once, and is told within a moment
                                 (`untold.py`, `telling.py`)
    what others have learnt      is written into its own when it is first of use here

So whatever this mirror has served once it can serve while the database is away; and nothing waits
for that: it is asked with a little patience, and not at all while it is known to be down.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.oci.reference import Repository
from mirror.records.ports import Link, Named, Records, ReferrersRecord, TagRecord
from mirror.records.untold import (
    LinkSaid,
    LinksGone,
    ManifestSaid,
    ReferrersGone,
    ReferrersSaid,
    SentSaid,
    TagGone,
    TagSaid,
    Untold,
)

_T = TypeVar("_T")

_A_MOMENT = 2.0  # seconds


class FleetRecords:
    """The port `Records`: `own` are on this disk, `shared` in the database, where that `is_up`.

    `clock` is this mirror's, in seconds since the epoch.
    """

    def __init__(
        self,
        own: Records,
        shared: Records,
        untold: Untold,
        *,
        is_up: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._own = own
        self._shared = shared
        self._untold = untold
        self._is_up = is_up
        self._clock = clock
        # What is here, and what becomes of it, is this mirror's own affair.
        self.list_edges = own.list_edges
        self.count_links = own.count_links
        self.list_repositories = own.list_repositories
        self.list_links = own.list_links
        self.list_unseen = own.list_unseen
        self.forget_unseen = own.forget_unseen
        self.forget_empty = own.forget_empty
        self.measure = own.measure
        self.give_back = own.give_back

    async def knows(self, repository: Repository) -> bool:
        """Whether anything of this repository is on record, or was."""
        return await self._own.knows(repository) or bool(
            await _asked(self._shared.knows(repository))
        )

    # Links

    async def find_link(self, repository: Repository, digest: Digest) -> Link | None:
        """What is known of the repository's having this digest."""
        link = await self._own.find_link(repository, digest)
        if link is not None and link.stands:
            return link
        told = await _asked(self._shared.find_link(repository, digest))
        if told is None or (link is not None and not told.stands):
            return link or told
        await self._learn_link(repository, digest, told)
        return told

    async def _learn_link(self, repository: Repository, digest: Digest, link: Link) -> None:
        """Have what others know on record here, too."""
        if link.is_confirmed:
            await self._own.record_link(repository, digest, link.size)
        if link.is_sent:
            upstream = repository.namespace
            media_type = await _asked(self._shared.find_media_type(upstream, digest))
            await self._own.record_sent(upstream, digest, media_type=media_type, is_durable=True)

    async def record_link(self, repository: Repository, digest: Digest, size: int) -> None:
        """Upstream has confirmed that the repository has this digest."""
        await self._own.record_link(repository, digest, size)
        await self._untold.add(LinkSaid(repository, digest, size, self._clock()))

    async def record_manifest(
        self,
        repository: Repository,
        digest: Digest,
        size: int,
        children: Sequence[Named],
        *,
        sent_as: str | None = None,
        is_durable: bool = False,
    ) -> None:
        """Upstream has confirmed a manifest, and sent it where `sent_as` says what it called it."""
        await self._own.record_manifest(
            repository, digest, size, children, sent_as=sent_as, is_durable=is_durable
        )
        named = tuple((it.digest, it.size, it.is_foreign) for it in children)
        await self._untold.add(
            ManifestSaid(repository, digest, size, named, sent_as, self._clock())
        )

    async def list_children(self, digest: Digest) -> list[Digest]:
        """What a manifest names, in its order."""
        own = await self._own.list_children(digest)
        return own or await _asked(self._shared.list_children(digest)) or []

    async def list_parents(
        self, children: Collection[Digest], *, limit: int
    ) -> list[tuple[Digest, Digest]]:
        """The manifests that name these: (manifest, what it names), so many pairs at most."""
        own = await self._own.list_parents(children, limit=limit)
        told = await _asked(self._shared.list_parents(children, limit=limit)) or []
        return list(dict.fromkeys([*own, *told]))[:limit]

    # Who sent what

    async def record_sent(
        self,
        upstream: str,
        digest: Digest,
        *,
        media_type: str | None = None,
        is_durable: bool = False,
    ) -> None:
        """This upstream has sent these bytes, and they are what the digest says."""
        await self._own.record_sent(upstream, digest, media_type=media_type, is_durable=is_durable)
        await self._untold.add(SentSaid(upstream, digest, media_type))

    async def find_media_type(self, upstream: str, digest: Digest) -> str | None:
        """What this upstream called a manifest."""
        own = await self._own.find_media_type(upstream, digest)
        return own or await _asked(self._shared.find_media_type(upstream, digest))

    async def list_senders(self, digest: Digest) -> frozenset[str]:
        """The upstreams that have sent these bytes.

        Who has sent what is on this disk is on record here, always before it is kept.
        """
        own = await self._own.list_senders(digest)
        return own or await _asked(self._shared.list_senders(digest)) or frozenset()

    # Tags

    async def find_tag(self, repository: Repository, tag: str) -> TagRecord | None:
        """What the tag was last known to mean."""
        own = await self._own.find_tag(repository, tag)
        told = await _asked(self._shared.find_tag(repository, tag))
        if told is None or (own is not None and own.checked_at >= told.checked_at):
            return own
        await self._own.record_tag(repository, tag, told)
        return told

    async def list_tags_of(self, repository: Repository, digest: Digest) -> list[str]:
        """The tags of the repository that mean this, as far as is known."""
        own = await self._own.list_tags_of(repository, digest)
        told = await _asked(self._shared.list_tags_of(repository, digest)) or []
        return list(dict.fromkeys([*own, *told]))

    async def record_tag(self, repository: Repository, tag: str, record: TagRecord) -> None:
        """Upstream has said what a tag means."""
        await self._own.record_tag(repository, tag, record)
        await self._untold.add(
            TagSaid(
                repository, tag, record.digest, record.checked_at, record.is_fallback,
                record.is_imported, record.told_by,
            )
        )  # fmt: skip

    async def list_tags(
        self, repository: Repository, *, after: str | None, limit: int | None
    ) -> list[str]:
        """The known tags of a repository, in lexical order, from the first one `after`."""
        own = await self._own.list_tags(repository, after=after, limit=limit)
        told = await _asked(self._shared.list_tags(repository, after=after, limit=limit)) or []
        return sorted({*own, *told})[:limit]

    # Referrers

    async def find_referrers(
        self, repository: Repository, digest: Digest
    ) -> ReferrersRecord | None:
        """Upstream's last word on what refers to this."""
        own = await self._own.find_referrers(repository, digest)
        told = await _asked(self._shared.find_referrers(repository, digest))
        if told is None or (own is not None and own.checked_at >= told.checked_at):
            return own
        await self._own.record_referrers(repository, digest, told)
        return told

    async def record_referrers(
        self, repository: Repository, digest: Digest, record: ReferrersRecord
    ) -> None:
        """Upstream has said what refers to this; the oldest of such lists go where need be."""
        await self._own.record_referrers(repository, digest, record)
        said = ReferrersSaid(
            repository, digest, record.content, record.checked_at, record.is_imported
        )
        await self._untold.add(said)

    # What is no longer so

    async def forget_links(self, repository: Repository, digests: Collection[Digest]) -> None:
        """The repository is not known any more to have these."""
        await self._untold.add(LinksGone(repository, tuple(digests)))
        await self._own.forget_links(repository, digests)
        await self._see_it_told()

    async def forget_tag(self, repository: Repository, tag: str) -> None:
        """The tag is to be asked for anew."""
        await self._untold.add(TagGone(repository, tag))
        await self._own.forget_tag(repository, tag)
        await self._see_it_told()

    async def forget_referrers(self, repository: Repository, digest: Digest) -> None:
        """What refers to this is to be asked for anew."""
        await self._untold.add(ReferrersGone(repository, digest))
        await self._own.forget_referrers(repository, digest)
        await self._see_it_told()

    async def _see_it_told(self) -> None:
        """Or what is forgotten here would be learnt from there again."""
        if self._is_up():
            await self._untold.wait_told(_A_MOMENT)

    # What has become of no use

    async def note_seen(self, digests: Collection[Digest]) -> None:
        """These are of use, also to the others."""
        await self._own.note_seen(digests)
        await _asked(self._shared.note_seen(digests))


async def _asked(answer: Awaitable[_T]) -> _T | None:
    """What the database says; None where it says nothing."""
    try:
        return await answer
    except StoreError:
        return None
