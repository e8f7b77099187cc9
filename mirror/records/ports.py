"""The port to what registries have said, and the values that pass through it.

    link      a repository has a digest: it was confirmed, or a manifest of the repository names it
    sent      an upstream has sent the bytes of a digest, and they were proved
    tag       what a tag meant when upstream last said so
    edge      a manifest names a child; proved by the manifest's own digest, whoever sent it
    referrers upstream's whole list of what refers to a digest

An upstream is believed for itself alone: a link and a tag belong to a repository, and so to its
upstream; `sent` and the media type that came with it belong to an upstream and a digest. Nothing
here says what is on this node's disk (that is `mirror.storage`): all of it may be shared by several
mirrors. Of a digest that nothing was seen of for long all may be forgotten: it is learnt anew when
somebody asks. Times are seconds since the epoch, sizes are bytes, and hints until the digest is
proved.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.sqlite import Extent


@dataclass(frozen=True, slots=True)
class Link:
    """What is known of a repository's having a digest.

    `is_confirmed`: upstream itself has said so for this repository, by an answer about the digest
    or by sending it. Otherwise a manifest names it, which stands alone only where the same upstream
    has sent the bytes too (`is_sent`), and not each client's own authorization decides there:
    anybody may write a manifest.
    """

    size: int
    is_confirmed: bool
    is_sent: bool

    @property
    def stands(self) -> bool:
        """Whether the repository may be served the digest without asking upstream."""
        return self.is_confirmed or self.is_sent


@dataclass(frozen=True, slots=True)
class Named:
    """A digest that a manifest names, at the size that the manifest promises.

    `is_foreign`: it is had from elsewhere (`urls`); the repository need not have it, so it is no
    link by itself.
    """

    digest: Digest
    size: int
    is_foreign: bool = False


@dataclass(frozen=True, slots=True)
class TagRecord:
    """What a tag meant when upstream last said so (`checked_at`).

    `is_fallback`: by the word of an endpoint that may say so only in an outage of the others;
    `told_by` is that endpoint's name, as far as it is known.
    `is_imported`: by a bundle's word, which upstream has not confirmed; `checked_at` is when that
    was made.
    """

    digest: Digest
    checked_at: float
    is_fallback: bool = False
    is_imported: bool = False
    told_by: str = ""


@dataclass(frozen=True, slots=True)
class ReferrersRecord:
    """What refers to a digest: upstream's whole list.

    `is_imported`: by a bundle's word; `checked_at` is when that was made.
    """

    content: bytes
    checked_at: float
    is_imported: bool = False


class Seen(NamedTuple):
    """A digest on record, and when it was last recorded or noted, in hours since the epoch.

    `number` is where it stands among those of the same hour.
    """

    digest: Digest
    hour: int
    number: int


class Listed(NamedTuple):
    """A repository, and the few digests that were linked to it last."""

    repository: Repository
    latest: tuple[Digest, ...]


class Records(Protocol):
    """What registries have said. All methods raise StoreError where it cannot be kept or read."""

    async def knows(self, repository: Repository) -> bool:
        """Whether anything of this repository is on record, or was."""

    # Links

    async def find_link(self, repository: Repository, digest: Digest) -> Link | None:
        """What is known of the repository's having this digest."""

    async def record_link(self, repository: Repository, digest: Digest, size: int) -> None:
        """Upstream has confirmed that the repository has this digest."""

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
        """Upstream has confirmed a manifest of the repository, and the manifest names `children`.

        Makes the manifest's own link confirmed, a link of each child that is not foreign, and the
        edges: all or nothing. `sent_as`: upstream has just sent it too, as this media type.
        `is_durable`: a power cut must not undo it.
        Where manifests name too much, all together, what only the oldest name goes.
        """

    async def list_children(self, digest: Digest) -> list[Digest]:
        """What a manifest names, in its order."""

    async def list_edges(
        self, parents: Collection[Digest], *, limit: int
    ) -> list[tuple[Digest, Digest]]:
        """What these manifests name: (manifest, what it names), so many pairs at most."""

    async def list_parents(
        self, children: Collection[Digest], *, limit: int
    ) -> list[tuple[Digest, Digest]]:
        """The manifests that name these: (manifest, what it names), so many pairs at most."""

    async def count_links(self, digests: Collection[Digest]) -> Mapping[Digest, int]:
        """How many repositories each of these is linked to; only what is linked at all."""

    # Who sent what

    async def record_sent(
        self,
        upstream: str,
        digest: Digest,
        *,
        media_type: str | None = None,
        is_durable: bool = False,
    ) -> None:
        """This upstream has sent these bytes, and they are what the digest says.

        The digest counts as seen now, also where this was known. `is_durable` as above.

        `media_type` is what it called them, where they are a manifest.
        """

    async def find_media_type(self, upstream: str, digest: Digest) -> str | None:
        """What this upstream called a manifest."""

    async def list_senders(self, digest: Digest) -> frozenset[str]:
        """The upstreams that have sent these bytes."""

    # Tags

    async def find_tag(self, repository: Repository, tag: str) -> TagRecord | None:
        """What the tag was last known to mean."""

    async def list_tags_of(self, repository: Repository, digest: Digest) -> list[str]:
        """The tags of the repository that mean this, as far as is known."""

    async def record_tag(self, repository: Repository, tag: str, record: TagRecord) -> None:
        """Upstream has said what a tag means."""

    async def list_tags(
        self, repository: Repository, *, after: str | None, limit: int | None
    ) -> list[str]:
        """The known tags of a repository, in lexical order, from the first one `after`."""

    # Referrers

    async def find_referrers(
        self, repository: Repository, digest: Digest
    ) -> ReferrersRecord | None:
        """Upstream's last word on what refers to this."""

    async def record_referrers(
        self, repository: Repository, digest: Digest, record: ReferrersRecord
    ) -> None:
        """Upstream has said what refers to this; the oldest of such lists go where need be."""

    # Lists

    async def list_repositories(
        self, upstreams: Collection[str], *, after: str | None, limit: int
    ) -> list[Listed]:
        """Repositories of these upstreams, in the order of `<namespace>/<name>`, `after` one.

        Such that are linked to anything.
        """

    async def list_links(
        self, repository: Repository, *, after: Digest | None, limit: int
    ) -> list[Digest]:
        """Digests that are linked to a repository, in a stable order."""

    # What is no longer so

    async def forget_links(self, repository: Repository, digests: Collection[Digest]) -> None:
        """The repository is not known any more to have these."""

    async def forget_tag(self, repository: Repository, tag: str) -> None:
        """The tag is to be asked for anew."""

    async def forget_referrers(self, repository: Repository, digest: Digest) -> None:
        """What refers to this is to be asked for anew."""

    # What has become of no use

    async def list_unseen(self, *, before: float, after: Seen | None, limit: int) -> list[Seen]:
        """Digests that were last seen `before`: the longest ago first, `after` one."""

    async def note_seen(self, digests: Collection[Digest]) -> None:
        """These are of use."""

    async def forget_unseen(self, digests: Sequence[Digest], *, before: float) -> set[Digest]:
        """Forget all that is known of these, unless they were seen since; what is forgotten.

        What a manifest on record names stays as long as that manifest.
        """

    async def forget_empty(self, *, after: str, limit: int) -> str | None:
        """Forget those of `limit` repositories `after` one of which nothing is known.

        The path of the last one that was looked at; None where there is none.
        """

    async def measure(self) -> Extent:
        """What the records take on disk."""

    async def give_back(self, most: int) -> None:
        """Have the file shrink by so many bytes, as far as they are of no use."""


class Shelved(NamedTuple):
    """A manifest that another mirror has: proved, and who has sent it."""

    content: bytes
    senders: frozenset[str]


class Fleet(Protocol):
    """What the mirrors that share records do for each other; nobody waits for them for long.

    `mirror.records.alone` is a mirror by itself, `mirror.records.together` one of several.
    """

    def turn(
        self, repository: Repository, tag: str, *, since: float
    ) -> AbstractAsyncContextManager[TagRecord | None]:
        """Whose turn it is to ask upstream what a tag means, where nobody has asked `since`.

        None: this mirror's, inside the block; what it finds out it records there. Else what another
        one has found out meanwhile.

        Raises:
            Unavailable: Another one has waited for upstream in vain, as long as who asks here.
        """

    async def find_manifest(self, digest: Digest) -> Shelved | None:
        """A manifest that another mirror has been sent."""

    async def find_manifests(self, digests: Sequence[Digest]) -> set[Digest]:
        """Which of these are manifests that another mirror has been sent: one question for all."""

    async def put_manifest(self, digest: Digest, content: bytes) -> None:
        """This mirror has been sent a manifest; who has sent it is on record."""
