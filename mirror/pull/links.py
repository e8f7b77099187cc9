"""Links: whether a repository may be served bytes that are at hand, and whom to ask about it.

    own upstream     another upstream     the repository's     verdict
    has sent them    has, openly          link
    yes              -                    confirmed            serve
    yes              -                    named                serve; confirm, if private
    yes              -                    none                 confirm
    no               yes, or nobody has   confirmed            serve
    no               yes, or nobody has   named, none          confirm
    no               no                   any                  fetch

Knowing a digest is no permission, and a manifest proves nothing but that somebody knew its digests:
it makes links that are named, which stand alone only for what the same upstream has sent. Upstream
itself confirms a link, by an answer about the digest or by sending it; an operator's import does in
its place (`control/depot.py`). What has come through
upstreams with `access = "client"` alone is private: another upstream's word that it has that too
costs it nothing, so it must have sent the bytes themselves. In such an upstream no name stands
alone: its repositories are not all for the same clients, and registries take manifests that name
what their repository has not (in a field that they do not read, or read otherwise). Bytes that
nobody is known to have sent (taken over from an older mirror, or adopted from disk) are nobody's
secret.
"""

from collections.abc import Awaitable, Collection, Mapping, Set as AbstractSet
from enum import Enum, auto

from mirror.aio.single_flight import SingleFlight
from mirror.oci.digest import Digest
from mirror.oci.manifest import INDEX_TYPES, Manifest, References
from mirror.oci.reference import Repository
from mirror.pull.keeping import try_to_keep
from mirror.pull.memory import Memory
from mirror.records.ports import Link, Named, Records
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.telemetry.traffic import Why

_PARENTS = 16  # that are looked at


class Verdict(Enum):
    """See the table at the top of this module."""

    SERVE = auto()
    CONFIRM = auto()  # upstream is asked whether the repository has it; then serve
    FETCH = auto()  # as if it were not at hand: what upstream sends is what may be served


def decide(
    link: Link | None, upstream: str, senders: Collection[str], private: Collection[str]
) -> Verdict:
    """Whether a repository of `upstream` may be served bytes that `senders` have sent.

    `private` are the upstreams where each client's own authorization decides.
    """
    if upstream in senders:
        stands = link is not None and (link.is_confirmed or upstream not in private)
        return Verdict.SERVE if stands else Verdict.CONFIRM
    if senders and all(sender in private for sender in senders):
        return Verdict.FETCH
    return Verdict.SERVE if link is not None and link.is_confirmed else Verdict.CONFIRM


class Links:
    """Finds links, and has upstream confirm new ones: kept in memory and on record."""

    def __init__(
        self,
        records: Records,
        memory: Memory,
        registries: Mapping[str, Registry],
        flights: SingleFlight[object, int],
        *,
        private: AbstractSet[str],
    ) -> None:
        self._records = records
        self._memory = memory
        self._registries = registries
        self._flights = flights
        self._private = private

    async def find(self, repository: Repository, digest: Digest) -> Link | None:
        """What is known of the repository's having a digest."""
        link = self._memory.find_link(repository, digest)
        if link is None:
            link = await self._records.find_link(repository, digest)
            if link is not None:
                self._memory.keep_link(repository, digest, link)
        return link

    async def judge(self, repository: Repository, digest: Digest, link: Link | None) -> Verdict:
        """Whether the repository may be served a digest that is at hand, with this `link` to it."""
        is_private = repository.namespace in self._private
        if link is not None and link.is_sent and (link.is_confirmed or not is_private):
            return Verdict.SERVE
        senders = await self._senders(digest)
        verdict = decide(link, repository.namespace, senders, self._private)
        if verdict is Verdict.CONFIRM and link is not None:
            # Memory may hold only what the last manifest said; to look is cheaper than to ask.
            recorded = await self._records.find_link(repository, digest)
            if recorded is not None and recorded != link:
                self._memory.keep_link(repository, digest, recorded)
                return decide(recorded, repository.namespace, senders, self._private)
        return verdict

    async def why_missed(
        self, repository: Repository, digest: Digest, link: Link | None, *, is_manifest: bool
    ) -> Why:
        """Why upstream has to send what is not at hand, with this `link` of the repository to it.

        What it has sent was here once. A manifest that was only named stands in an index that is
        here: the image is known, and nobody has asked for this platform of it yet.
        """
        if link is not None and link.is_sent:
            return Why.EVICTED
        if repository.namespace in await self._senders(digest):
            return Why.EVICTED
        is_named = link is not None and not link.is_confirmed
        return Why.OTHER_PLATFORM if is_named and is_manifest else Why.NEVER_SEEN

    async def is_of_index(self, repository: Repository, digest: Digest) -> bool:
        """Whether an index of this repository names it: then it is a manifest."""
        for parent, _ in await self._records.list_parents([digest], limit=_PARENTS):
            media_type = await self._records.find_media_type(repository.namespace, parent)
            if media_type in INDEX_TYPES and await self.find(repository, parent) is not None:
                return True
        return False

    async def is_open(self, digest: Digest) -> bool:
        """Whether everybody may know that a digest is here.

        What has come through upstreams with `access = "client"` alone tells that another client
        has pulled it.
        """
        senders = await self._senders(digest)
        return not senders or not senders <= self._private

    async def record(self, repository: Repository, digest: Digest, size: int) -> None:
        """Upstream has confirmed that the repository has this digest, of so many bytes."""
        known = self._memory.find_link(repository, digest)
        if known is None or not known.is_confirmed or known.size != size:
            is_sent = known is not None and known.is_sent
            link = Link(size, is_confirmed=True, is_sent=is_sent)
            self._memory.keep_link(repository, digest, link)
            await try_to_keep(self._records.record_link(repository, digest, size))

    async def record_manifest(
        self, repository: Repository, manifest: Manifest, references: References, *, is_sent: bool
    ) -> None:
        """Upstream has confirmed a manifest for the repository, or (`is_sent`) sent it for that.

        So the repository has the manifest, and is said to have what the manifest refers to.

        Raises:
            StoreError: As `record_sent`.
        """
        digest = manifest.digest
        children = [Named(it.digest, it.size, is_foreign=it.is_foreign) for it in references]
        link = Link(manifest.size, is_confirmed=True, is_sent=is_sent)
        self._memory.keep_link(repository, digest, link)
        for child in children:
            if not child.is_foreign and self._memory.find_link(repository, child.digest) is None:
                named = Link(child.size, is_confirmed=False, is_sent=False)
                self._memory.keep_link(repository, child.digest, named)
        sent_as = manifest.media_type if is_sent else None
        recording = self._records.record_manifest(
            repository, digest, manifest.size, children,
            sent_as=sent_as, is_durable=is_sent and repository.namespace in self._private,
        )  # fmt: skip
        if not is_sent:
            await try_to_keep(recording)
            return
        await self._record_sender(repository.namespace, digest, recording)

    async def record_sent(self, upstream: str, digest: Digest) -> None:
        """An upstream has sent these bytes, and they are proved. To be told before they are kept.

        Otherwise a crash between the two would leave private bytes that nobody has sent. What is
        known already is said again: so nobody forgets it meanwhile, as of no use (`retention.py`).

        Raises:
            StoreError: They are private, and this cannot be put on record: they must not be kept.
        """
        is_durable = upstream in self._private
        recording = self._records.record_sent(upstream, digest, is_durable=is_durable)
        await self._record_sender(upstream, digest, recording)

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

    async def _senders(self, digest: Digest) -> frozenset[str]:
        senders = self._memory.find_senders(digest)
        if senders is None:
            senders = self._memory.add_senders(digest, await self._records.list_senders(digest))
        return senders

    async def _record_sender(
        self, upstream: str, digest: Digest, recording: Awaitable[None]
    ) -> None:
        """Have an upstream's having sent this on record, and then in memory.

        Memory forgets: what only it knew to be private would be nobody's secret one day.
        """

        async def record() -> None:
            await recording
            await self._senders(digest)  # all of them: this one is not to be taken for the only
            self._memory.add_senders(digest, frozenset({upstream}))

        if upstream in self._private:
            await record()
        else:
            await try_to_keep(record())
