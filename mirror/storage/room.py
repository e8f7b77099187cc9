"""Making room: whoever needs more of the disk than was promised is served here, in turn.

One task does it for everyone, and ends by itself when nobody waits. So it may take its time over an
eviction while who asked for it comes and goes: nobody who is cancelled leaves anything locked.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from mirror.aio.waiting import finish
from mirror.oci.digest import Digest
from mirror.storage.changes import Changes, over
from mirror.storage.errors import NoRoom, TooLarge
from mirror.storage.index import Index
from mirror.storage.pins import Pins
from mirror.storage.policy import Candidate, Kind, Policy, least_for_files
from mirror.storage.space import Promise, Request, Space, ahead_of
from mirror.storage.states import PartialEntry, PartialKey, States
from mirror.storage.usage import Usage
from mirror.telemetry.log import explain, fields
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_BATCH = 1000  # deleted at a time, at most; then others get their turn
_LOOKED_AT = 50  # candidates, at least
_FILES = 64  # that are made room for at a time, where the file system has no more of them
_SPARE = 4  # times as many as would do, if all were of the same size


class Room:
    """Gives space, and evicts for it what `policy` chooses; `evicted` is told of that."""

    def __init__(
        self,
        space: Space,
        states: States,
        usage: Usage,
        index: Index,
        changes: Changes,
        *,
        policy: Policy,
        pins: Pins,
        metrics: Metrics,
    ) -> None:
        self._space = space
        self._states = states
        self._usage = usage
        self._index = index
        self._changes = changes
        self._policy = policy
        self._pins = pins
        self._metrics = metrics
        self.evicted: Callable[[Sequence[Digest]], None] = lambda _: None
        self._serving: asyncio.Task[None] | None = None
        self._freeing: asyncio.Task[bool] | None = None

    def check_ever(self, size: int) -> None:
        """Raise TooLarge where so much could not even be kept in an empty store."""
        if not self._space.can_ever_hold(size):
            raise TooLarge("larger than all that store.max_size leaves for blobs")

    async def admit(self, promise: Promise, size: int) -> None:
        """See that a blob of `size` bytes by upstream's word can find room; nothing is evicted yet.

        Raises:
            NoRoom: It cannot be kept within the limits.
            StoreError: The disk or the index refuses.
        """
        self.check_ever(size)
        whole = self._usage.whole(size)
        if not await self._can_admit(promise, whole):
            await self._wait_for_what_is_under_way()
            if not await self._can_admit(promise, whole):
                raise NoRoom("store.max_size or store.min_free leaves too little that may go")
        promise.expected = whole

    async def _can_admit(self, promise: Promise, size: int) -> bool:
        free, stored = await self._look()
        if self._space.admits(promise, size, stored=stored, free=free, evictable=0):
            return True  # whatever may go
        staying = await self._index.weigh_staying(self._list_staying())
        partials = sum(one.promise.size for one in self._states.list_evictable())
        free, stored = await self._look()
        evictable = self._index.taken - staying + partials
        return self._space.admits(promise, size, stored=stored, free=free, evictable=evictable)

    async def _look(self) -> tuple[int, int]:
        """Bytes that are free, and that blobs take."""
        look = await self._usage.look()
        self._space.overhead = look.overhead
        return look.free, self._index.taken

    async def allow(self, promise: Promise, size: int, whole: int | None) -> None:
        """Let a blob on its way take `size` bytes by now, and some more for what comes next.

        `whole` is the size that it will have in the end, if anybody tells.

        Raises:
            NoRoom: Its `size` cannot be kept within the limits; nothing is evicted then.
            StoreError: Something was to be evicted, and the disk or the index refuses.
        """
        if size <= promise.size:
            return
        self.check_ever(size)
        ahead = ahead_of(size, None if whole is None else self._usage.whole(whole))
        if whole is None and not promise.is_proved:
            ahead = min(ahead, self._space.most_untold - size)
            if ahead < 0:
                raise TooLarge("of a size that nobody tells, and a quarter of max_size by now")
        await self._ask(promise, size, ahead)

    async def list_next(self, most: int) -> list[Candidate]:
        """What would go first where there was need of room, in order; nothing goes now."""
        await self._changes.flush_accesses()
        listed = await self._index.list_least(limit=most + len(self._list_staying()))
        candidates = [_candidate(it) for it in self._states.list_evictable()]
        candidates += [
            replace(one, size=self._usage.whole(one.size))
            for one in listed if self._may_go(one.digest)
        ]  # fmt: skip
        everything = sum(one.size for one in candidates)
        return self._policy.choose(candidates, everything, most=most, beyond=0)

    async def keep_limits(self) -> None:
        """See that the limits hold, whoever else fills the disk. Raises as `allow`."""
        await self._ask(None, 0, 0)

    async def free_files(self) -> bool:
        """Have some blobs go, however small: the file system has no file to give any more.

        Once for all who ask meanwhile. False: there is nothing that may go.

        Raises:
            StoreError: The disk or the index refuses.
        """
        if self._freeing is None:
            self._freeing = asyncio.get_running_loop().create_task(
                self._free_files(), name="free files"
            )
        return await finish(self._freeing)

    async def _free_files(self) -> bool:
        try:
            await self._changes.flush_accesses()
            listed = await self._index.list_least(limit=_BATCH + len(self._list_staying()))
            # No awaiting from here on, as in `_evict`.
            going = least_for_files([it for it in listed if self._may_go(it.digest)], most=_FILES)
            gone = [one.digest for one in going]
            self._changes.begin_leaving(gone)
            await self._finish([], gone, sum(one.size for one in going))
            return bool(gone)
        finally:
            self._freeing = None

    async def close(self) -> None:
        """Return when nobody is served any more."""
        if self._serving is not None:
            await finish(self._serving)
        if self._freeing is not None:
            await finish(self._freeing)

    async def _ask(self, promise: Promise | None, size: int, ahead: int) -> None:
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if granted.done():
                return
            if error is None:
                granted.set_result(None)
            else:
                granted.set_exception(error)

        request = Request(settle, promise, size, ahead)
        self._space.ask(request)
        if self._serving is None:
            self._serving = loop.create_task(self._serve(), name="make room")
        try:
            await granted
        finally:
            request.has_left = True

    async def _serve(self) -> None:
        """One at a time. What goes wrong is for who asked, and never for the next in turn."""
        try:
            while (request := self._space.first()) is not None:
                try:
                    await self._make_room(request)
                except Exception as error:  # noqa: BLE001 - raised again by whoever waits
                    self._space.settle(request, error)
        finally:
            self._serving = None

    async def _make_room(self, request: Request) -> None:
        """Evict until a request can be granted, and grant it. Raises NoRoom, StoreError.

        Where all that is asked for is that the limits hold, one batch goes; then others are served.
        """
        is_patient = True
        while not request.has_left:
            free, stored = await self._look()
            excess = self._space.excess(request, stored=stored, free=free)
            if excess <= 0:
                self._space.grant(request, stored=stored, free=free)
                return
            # What is on its way out already may be enough.
            is_enough = not is_patient and await self._evict(excess, request, free)
            if is_enough and request.promise is None:
                self._space.defer(request)
                return
            if not is_enough and not is_patient and not request.makes_do:
                request.makes_do = True
                continue
            if not is_enough and not await self._wait_for_what_is_under_way() and not is_patient:
                raise NoRoom("store.max_size or store.min_free leaves no room, and nothing can go")
            is_patient = False
        self._space.settle(request, None)

    async def _wait_for_what_is_under_way(self) -> bool:
        """Let end what frees space; False: there is nothing."""
        freeing = self._states.list_freeing()
        for change in freeing:
            await over(change)
        return bool(freeing)

    async def _evict(self, excess: int, request: Request, free: int) -> bool:
        """Make go what the policy says; False: all that may go would not be enough."""
        await self._changes.flush_accesses()
        whole = self._usage.whole
        staying = set(self._list_staying())
        limit = self._count_candidates(excess) + len(staying)
        listed = await self._index.list_least(limit=limit)
        beyond = 0
        if len(listed) >= limit:
            known = await self._index.weigh_staying(list(staying))
            known += sum(whole(one.size) for one in listed if one.digest not in staying)
            beyond = max(0, self._index.taken - known)
        # No awaiting from here on: what is not in use now, and chosen, is for nobody else.
        partials = {partial.key: partial for partial in self._states.list_evictable()}
        candidates = [_candidate(partial) for partial in partials.values()]
        if self._may_displace(request, free):
            candidates += [
                replace(one, size=whole(one.size)) for one in listed if self._may_go(one.digest)
            ]
        else:
            beyond = 0
        may_go = sum(one.size for one in candidates) + beyond
        if request.promise is None and may_go < excess:
            # What is beyond max_size goes as far as it can. For the disk's sake, which others fill,
            # nothing does where that is in vain.
            excess = min(may_go, self._space.beyond_max_size(stored=self._index.taken))
        chosen = self._choose(candidates, excess, beyond)
        if not chosen:
            return False
        request.freed += sum(one.size for one in chosen)
        leaving = [one for one in chosen if one.kind is not Kind.PARTIAL]
        going = [
            partials[PartialKey(one.upstream, one.digest)]
            for one in chosen if one.kind is Kind.PARTIAL
        ]  # fmt: skip
        self._changes.begin_removal(going)
        gone = [one.digest for one in leaving]
        self._changes.begin_leaving(gone)
        sizes = {one.digest: one.size for one in listed}
        await self._finish(going, gone, sum(sizes[digest] for digest in gone))
        return True

    def _choose(self, candidates: Sequence[Candidate], excess: int, beyond: int) -> list[Candidate]:
        """Who goes; whoever wants to know reads it in the log."""
        chosen = self._policy.choose(candidates, excess, most=_BATCH, beyond=beyond)
        if _logger.isEnabledFor(logging.DEBUG):
            for one in chosen:
                explain(
                    _logger, "chosen to go", digest=one.digest, kind=one.kind.name.lower(),
                    size=one.size, rank=round(one.rank, 3), needed=excess, of=len(candidates),
                )  # fmt: skip
        return chosen

    def _list_staying(self) -> list[Digest]:
        """What may not be evicted now, beside what is on record as pinned: few of many."""
        return list({*self._states.list_in_use(), *self._pins.list_changing()})

    def _may_go(self, digest: Digest) -> bool:
        return digest not in self._pins and not self._states.is_in_use(digest)

    def _count_candidates(self, excess: int) -> int:
        """How many are looked at, so that `excess` bytes may well be among them."""
        likely = excess * self._index.totals.blobs // max(self._index.taken, 1)
        return min(max(_SPARE * likely, _LOOKED_AT), _BATCH)

    def _may_displace(self, request: Request, free: int) -> bool:
        """Whether blobs may leave for it, and not only what others have left unfinished."""
        if request.promise is None:
            return True
        return self._space.may_displace(
            request.promise, request.wanted, stored=self._index.taken, free=free
        )

    async def _finish(self, going: list[PartialEntry], gone: list[Digest], size: int) -> None:
        try:
            await self._changes.finish_removal(going)
        finally:
            await self._changes.finish_leaving(gone)
        if gone:
            self.evicted(gone)
            self._metrics.evicted_blobs.inc(len(gone))
            self._metrics.evicted_bytes.inc(size)
            _logger.info("evicted", extra=fields(blobs=len(gone), bytes=size))


def _candidate(partial: PartialEntry) -> Candidate:
    upstream, digest = partial.key
    return Candidate(Kind.PARTIAL, digest, partial.promise.size, partial.since, upstream)
