"""Records that get to know only so many repositories an hour: names cost an attacker nothing.

What upstream says of further ones is not put on record. They are served all the same, and upstream
is asked anew whenever memory has forgotten: whoever pulls them notices no more than that. No client
uses up more than half of it. That an upstream has sent something is always put on record: privacy
hangs on it (`mirror.pull.links`), and there is no more of it than there are bytes.
"""

import logging
from collections.abc import Callable, Sequence

from mirror.aio.allowance import Allowances
from mirror.aio.bounded import LruBytes
from mirror.aio.slots import client
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.records.ports import Named, Records, ReferrersRecord, TagRecord
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_HOUR = 3600.0  # seconds
_KNOWN = 8 * 2**20  # bytes of repositories that are on record
_TOLD_EVERY = 600.0  # seconds between lines in the log


class BoundedRecords:
    """The port `Records`, by way of `records`; `per_hour` new repositories. `clock` is steady."""

    def __init__(
        self, records: Records, *, per_hour: int, clock: Callable[[], float], metrics: Metrics
    ) -> None:
        self._records = records
        self._clock = clock
        self._all: Allowances[None] = Allowances(per_hour, _HOUR, clock)
        self._each: Allowances[str] = Allowances(max(1, per_hour // 2), _HOUR, clock)
        self._known: LruBytes[Repository, None] = LruBytes(
            _KNOWN, lambda repository, _: len(repository.name)
        )
        self._metrics = metrics
        self._tell_at = clock()
        self.knows = records.knows
        self.find_link = records.find_link
        self.list_children = records.list_children
        self.list_edges = records.list_edges
        self.list_parents = records.list_parents
        self.count_links = records.count_links
        self.record_sent = records.record_sent
        self.find_media_type = records.find_media_type
        self.list_senders = records.list_senders
        self.find_tag = records.find_tag
        self.list_tags_of = records.list_tags_of
        self.list_tags = records.list_tags
        self.find_referrers = records.find_referrers
        self.list_repositories = records.list_repositories
        self.list_links = records.list_links
        self.forget_links = records.forget_links
        self.forget_tag, self.forget_referrers = records.forget_tag, records.forget_referrers
        self.list_unseen = records.list_unseen
        self.note_seen = records.note_seen
        self.forget_unseen = records.forget_unseen
        self.forget_empty = records.forget_empty
        self.measure = records.measure
        self.give_back = records.give_back

    async def record_link(self, repository: Repository, digest: Digest, size: int) -> None:
        """As the port says, of a repository that may be known."""
        if await self._may_know(repository):
            await self._records.record_link(repository, digest, size)

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
        """As the port says; of a repository that may not be known, only who has sent it."""
        if await self._may_know(repository):
            await self._records.record_manifest(
                repository, digest, size, children, sent_as=sent_as, is_durable=is_durable
            )
        elif sent_as is not None:
            await self._records.record_sent(
                repository.namespace, digest, media_type=sent_as, is_durable=is_durable
            )

    async def record_tag(self, repository: Repository, tag: str, record: TagRecord) -> None:
        """As the port says, of a repository that may be known."""
        if await self._may_know(repository):
            await self._records.record_tag(repository, tag, record)

    async def record_referrers(
        self, repository: Repository, digest: Digest, record: ReferrersRecord
    ) -> None:
        """As the port says, of a repository that may be known."""
        if await self._may_know(repository):
            await self._records.record_referrers(repository, digest, record)

    async def _may_know(self, repository: Repository) -> bool:
        if repository in self._known:
            return True
        if await self._records.knows(repository) or self._admit(repository):
            self._known[repository] = None
            return True
        return False

    def _admit(self, repository: Repository) -> bool:
        """Whether one more may be known: this one."""
        asker = client.get()
        if repository in self._known:  # since we have begun to look
            return True
        if not self._all.wait(None) and (asker is None or self._each.take(asker)):
            self._all.use(None)
            self._known[repository] = None
            return True
        self._metrics.repositories_unrecorded.labels(repository.namespace).inc()
        if (now := self._clock()) >= self._tell_at:
            self._tell_at = now + _TOLD_EVERY
            _logger.warning(
                "many repositories are new: not all are put on record, and are asked for again"
                " (store.new_repositories_per_hour)",
                extra=fields(upstream=repository.namespace),
            )
        return False
