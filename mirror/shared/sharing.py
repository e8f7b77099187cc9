"""Sharing: what fills of this mirror have to do with the other mirrors, all together.

Each fill gets a `Part`. What was filled while the database or the bucket was away is published when
both are back, one blob after another; also what a mirror before has left, which was stopped too
early.
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import Protocol

from mirror.aio.backoff import Backoff
from mirror.aio.tasks import Tasks
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.shared.ahead import Memory
from mirror.shared.eviction import Eviction
from mirror.shared.hearing import is_about
from mirror.shared.ledger import CHANNEL, PostgresLedger
from mirror.shared.opening import Common
from mirror.shared.part import Part
from mirror.shared.ports import BucketDown
from mirror.shared.publish import Publisher
from mirror.shared.redirecting import Redirects
from mirror.shared.settling import settle_forever
from mirror.shared.sweep import sweep_forever
from mirror.shared.turns import State, Turn
from mirror.storage.ports import OpenBlob
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_PUTS = 4  # pieces held in memory, to be put
_AHEAD = 2**26  # bytes of pieces held in memory that nobody reads yet
_PAUSE = 0.1  # seconds between two looks at what has come, where nothing tells of it
_PAUSE_TOLD = 1.0  # where the database does
_USED_EVERY = 30.0  # seconds between two words on what has been read
_AGAIN = Backoff(first=5.0, most=60.0)  # before what could not be published is tried again
_REMEMBERED = 10_000  # blobs that wait to be published


class Disk(Protocol):
    """What is complete on this disk (`mirror.storage.ports.Storage`)."""

    async def open_blob(self, digest: Digest) -> OpenBlob | None:
        """Open a blob for reading."""

    def list_stored(self) -> AsyncIterator[list[tuple[Digest, int]]]:
        """Everything that is here, with its size, in batches."""


class Sharing:
    """Makes the parts of fills, and publishes what is left.

    `patience`: seconds for which nothing may come from another mirror. `list_senders` gives the
    upstreams that have sent the bytes of a digest, `read_private` those whose bytes are for
    themselves alone, `read_pinned` what is never evicted from the bucket, which has room for
    `max_size` bytes.
    """

    def __init__(
        self,
        common: Common,
        disk: Disk,
        *,
        lease: float,
        patience: float,
        list_senders: Callable[[Digest], Awaitable[Collection[str]]],
        read_private: Callable[[], Collection[str]],
        read_pinned: Callable[[], Collection[Digest]],
        max_size: int,
        redirects: bool,
        tasks: Tasks,
        monotonic: Callable[[], float],
        random: Random,
    ) -> None:
        self._database = database = common.database
        self._used = set[int]()
        self._ledger = PostgresLedger(
            database,
            common.name,
            patience=patience,
            read_private=read_private,
            had_trouble=common.had_trouble,
        )
        self._bucket = common.bucket
        self._disk = disk
        self._lease = lease
        self._patience = patience
        self._redirects = None if not redirects else Redirects(
            self._ledger, self._bucket, note_used=self._used.add, monotonic=monotonic
        )  # fmt: skip
        self._list_senders = list_senders
        self._read_private = read_private
        self._tasks = tasks
        self._monotonic = monotonic
        self._random = random
        self._slots = asyncio.Semaphore(_PUTS)
        self._memory = Memory(_AHEAD)
        self._parts: set[Part] = set()
        self._unpublished: OrderedDict[tuple[Digest, str], None] = OrderedDict()  # and through whom
        self._has_news = asyncio.Event()
        self._must_walk = True
        self.published = self.followed = self.put_bytes = 0
        database.listen(CHANNEL, self._heard)
        database.subscribe_up(self._has_news.set)
        self._eviction = Eviction(
            database, self._bucket, max_size=max_size, read_pinned=read_pinned, random=random
        )
        tasks.keep(self._eviction.look_forever, name="evict from the bucket")
        tasks.keep(partial(sweep_forever, database, self._bucket, random), name="sweep the bucket")
        tasks.keep(partial(settle_forever, database, lease, random), name="settle the clock")
        tasks.keep(self.publish_forever, name="publish")
        tasks.keep(self.note_used_forever, name="note what is used")

    @property
    def unpublished(self) -> int:
        """How many blobs here the others cannot have yet."""
        return len(self._unpublished)

    def read_figures(self) -> dict[str, float]:
        """What metrics tell of it."""
        states = Counter(part.turn.state for part in self._parts)
        return {
            "bucket_up": float(self._bucket.is_up),
            "bucket_bytes": float(self._eviction.size),
            "leading": float(states[State.LEADING]),
            "following": float(states[State.FOLLOWING] + states[State.READING]),
            "unpublished": float(self.unpublished),
            "published_blobs": float(self.published),
            "published_bytes": float(self.put_bytes),
            "followed_blobs": float(self.followed),
            "evicted_blobs": float(self._eviction.evicted_blobs),
            "evicted_bytes": float(self._eviction.evicted_bytes),
        }

    def take_part(self, upstream: str, digest: Digest) -> Part:
        """What a fill that begins now has to do with the others."""
        part = self._make(upstream, digest)
        _ = self._tasks.create_task(self._see_to(part), name="share")
        return part

    def note_here(self, upstream: str, digest: Digest) -> None:
        """As `mirror.pull.fill.others.Others.note_here`; it is published by and by."""
        self._leave(digest, upstream)

    async def find_whole(self, upstream: str, digests: Sequence[Digest]) -> Collection[Digest]:
        """As `mirror.pull.fill.others.Others.find_whole`."""
        if not digests or not self._bucket.can_read:
            return ()
        try:
            there = await self._ledger.find_readable(upstream, digests)
        except StoreError:
            return ()
        return [digest for digest in digests if str(digest) in there]

    async def find_elsewhere(self, upstream: str, digest: Digest) -> tuple[str, int] | None:
        """As `mirror.pull.fill.others.Others.find_elsewhere`."""
        if self._redirects is None or not self._bucket.can_read:
            return None
        return await self._redirects.find(upstream, digest)

    def _make(self, upstream: str, digest: Digest) -> Part:
        pause = _PAUSE_TOLD if self._database.hears else _PAUSE
        pause *= 0.75 + self._random.random() / 2  # so that many do not look at once
        return Part(
            upstream, digest, Turn(self._lease, self._patience, pause),
            ledger=self._ledger, bucket=self._bucket, memory=self._memory,
            monotonic=self._monotonic, is_down=lambda: not self._database.is_up,
            is_private=upstream in self._read_private(),
        )  # fmt: skip

    def _heard(self, word: str) -> None:
        for part in self._parts:
            if is_about(word, part.blob):
                part.heard(word)

    async def _see_to(self, part: Part) -> None:
        try:
            await self._share(part)
        finally:
            self._note(part)

    async def _share(self, part: Part) -> None:
        self._parts.add(part)
        publisher = Publisher(
            part,
            joins=self._redirects is not None,
            slots=self._slots,
            random=self._random,
            note_put=self._note_put,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(publisher.publish())
                await part.tend()
                part.wake()
        except BaseException:
            part.turn.give_up()  # the fill goes on by itself
            part.wake()
            raise
        finally:
            self._parts.discard(part)
            await part.finish()

    def _note(self, part: Part) -> None:
        if part.blob is not None and part.turn.state is State.READING:
            self.followed += 1
            self._used.add(part.blob)
        if part.is_published:
            self.published += 1
        elif part.is_proved_here and part.senders and part.turn.state is not State.READING:
            self._leave(part.digest, part.upstream)

    def _note_put(self, length: int) -> None:
        self.put_bytes += length

    # What is left

    def _leave(self, digest: Digest, upstream: str) -> None:
        """It is to be published another time."""
        self._unpublished[digest, upstream] = None
        self._unpublished.move_to_end((digest, upstream))
        if len(self._unpublished) > _REMEMBERED:
            self._unpublished.popitem(last=False)
            self._must_walk = True
        self._has_news.set()

    async def publish_forever(self) -> None:
        """Publish what is left, whenever there is somebody to take it."""
        failures = 0
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            try:
                await self._ledger.begin()
                if self._must_walk:
                    await self._walk()
                    self._must_walk = False
                while self._unpublished:
                    digest, upstream = next(iter(self._unpublished))
                    await self._publish(digest, upstream)
                    self._unpublished.pop((digest, upstream), None)
                failures = 0
            except (StoreError, BucketDown) as error:
                _logger.info("not published yet: %s", error, extra=fields(left=self.unpublished))
                failures += 1
                with suppress(TimeoutError):  # or as soon as there is news
                    async with asyncio.timeout(_AGAIN.delay(failures, roll=self._random.random())):
                        await self._has_news.wait()
                self._has_news.set()

    async def _walk(self) -> None:
        """Find what is here and not in the bucket. Raises StoreError."""
        async for batch in self._disk.list_stored():
            digests = [digest for digest, _ in batch]
            there = await self._ledger.find_proved(digests)
            for digest in digests:
                if str(digest) not in there:
                    senders, private = await self._list_senders(digest), self._read_private()
                    # Through one that is not private it is for all.
                    for upstream in sorted(senders, key=lambda it: (it in private, it))[:1]:
                        self._unpublished.setdefault((digest, upstream))

    async def _publish(self, digest: Digest, upstream: str) -> None:
        """Publish a blob from this disk. Raises StoreError, BucketDown."""
        blob = await self._disk.open_blob(digest)
        if blob is None:
            return
        part = self._make(upstream, digest)
        try:
            part.offer(blob)
        finally:
            blob.close()
        await self._share(part)
        if part.is_published:
            self.published += 1
        elif part.turn.state is State.ALONE:
            raise BucketDown("the database or the bucket is away")

    async def note_used_forever(self) -> None:
        """Tell now and then what has been read: it is evicted last."""
        while True:
            await asyncio.sleep(_USED_EVERY)
            self._used |= {
                part.blob for part in self._parts
                if part.blob is not None and part.turn.state is State.READING
            }  # fmt: skip
            used = set(self._used)
            self._used.clear()
            if used:
                with suppress(StoreError):
                    await self._ledger.note_used(sorted(used))
