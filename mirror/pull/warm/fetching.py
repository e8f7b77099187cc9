"""Fetching one image so that it can be served while upstream is away.

    of what the image consists of        what is done
    manifests                            asked for as a client would; of an index, its platforms'
    blobs that are here                  count as used; upstream confirms what was not confirmed yet
    blobs that are not                   fetched, after whatever a client waits for; who asks for
                                         one meanwhile joins it, and from then on it is urgent

Where upstream limits our rate (429) or does not answer, it is waited for; where that takes long,
or a pull would be one of those that are left for people, the image has failed, and says so.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TypeVar

from aiolimiter import AsyncLimiter

from mirror.aio.backoff import Backoff
from mirror.aio.group import Group
from mirror.oci.descriptor import Platform
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError, StoreError, Unavailable
from mirror.oci.reference import Reference, Repository, Tag
from mirror.pull.fill.fills import Fills
from mirror.pull.links import Links, Verdict
from mirror.pull.versions import Versions, every_one
from mirror.pull.warm.progress import State, Warmed
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.errors import TooLarge
from mirror.storage.ports import PinningStorage

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_AT_ONCE = 4  # blobs of one image
_TRIES = 5
_AGAIN = Backoff(first=2.0, most=30.0)
_LONGEST_PAUSE = 900.0  # seconds for which an upstream that limits our rate is waited for
_GIVEN_WAY = 1000  # times that clients may go before one blob


class QuotaReached(Exception):
    """Of the pulls that upstream allows, what is left is for people."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What fetching keeps to: bytes a second, and pulls that it leaves."""

    limit: AsyncLimiter | None = None
    leave_quota: int | None = None


class Fetching:
    """Fetches images."""

    def __init__(
        self,
        *,
        store: PinningStorage,
        links: Links,
        versions: Versions,
        fills: Fills,
        registries: Mapping[str, Registry],
        random: Random,
    ) -> None:
        self._store = store
        self._links = links
        self._versions = versions
        self._fills = fills
        self._registries = registries
        self._random = random

    async def fetch(
        self,
        warmed: Warmed,
        repository: Repository,
        reference: Reference,
        platforms: Sequence[Platform],
        bounds: Bounds,
        *,
        only_here: bool = False,
    ) -> None:
        """Have one image here; or (`only_here`) have upstream confirm what of it is.

        Raises:
            QuotaReached: Before that, no more pulls may be made.
            RegistryError: What upstream says, or that it says nothing, or the store.
        """
        scope = Scope(repository)
        warmed.upstream = repository.namespace
        warmed.state = State.ASKING
        await self._learn_quota(scope, reference, bounds)

        async def require_pulls() -> None:
            self._require_pulls(repository.namespace, bounds)

        version = await self._persistently(
            warmed,
            State.ASKING,
            lambda: self._versions.find(
                repository,
                reference,
                platforms,
                before_each=require_pulls,
                only=self._store.is_stored if only_here else every_one,
            ),
        )
        if only_here:
            stored = await self._store.find_stored(list(version.sizes))
            version.sizes = {it: size for it, size in version.sizes.items() if it in stored}
            version.blobs = {it: size for it, size in version.blobs.items() if it in stored}
        warmed.blobs, warmed.size = len(version.sizes), version.size
        if version.size > self._store.capacity:
            raise TooLarge("larger than all that store.max_size leaves for blobs")
        warmed.state = State.FETCHING
        missing = await self._see_to_what_is_here(warmed, scope, version.blobs)
        warmed.here_blobs = len(version.sizes) - len(missing)
        warmed.here_size = version.size - sum(missing.values())
        await self._fetch_missing(warmed, scope, missing, bounds)
        lacking = set(version.sizes) - await self._store.find_stored(list(version.sizes))
        if lacking:
            raise StoreError(f"{len(lacking)} of its {len(version.sizes)} blobs could not be kept")

    def written(self, warmed: Warmed, digest: Digest) -> int:
        """Bytes that are there of a blob under way."""
        return self._fills.written(warmed.upstream, digest)

    async def _fetch_missing(
        self, warmed: Warmed, scope: Scope, missing: Mapping[Digest, int], bounds: Bounds
    ) -> None:
        """Fetch several at once. Raises what the first has met that failed, when all have ended."""
        waiting = iter(missing.items())

        async def work() -> None:
            for digest, size in waiting:
                warmed.under_way[digest] = size
                try:
                    await self._fetch_blob(warmed, scope, digest, size, bounds)
                except RegistryError as error:
                    errors.append(error)
                finally:
                    warmed.under_way.pop(digest, None)

        errors, workers = list[RegistryError](), Group()
        for _ in range(min(_AT_ONCE, len(missing))):
            workers.create_task(work(), name="warm")
        await workers.wait()
        if errors:
            raise errors[0].with_traceback(None)

    async def _see_to_what_is_here(
        self, warmed: Warmed, scope: Scope, blobs: Mapping[Digest, int]
    ) -> dict[Digest, int]:
        """What has to be fetched; the rest is in use, and may be served to this repository."""
        stored = await self._store.find_stored(list(blobs))
        missing = {digest: size for digest, size in blobs.items() if digest not in stored}
        for digest in stored:
            self._store.note_access(digest)
            link = await self._links.find(scope.repository, digest)
            verdict = await self._links.judge(scope.repository, digest, link)
            if verdict is Verdict.FETCH:
                missing[digest] = blobs[digest]
            elif verdict is Verdict.CONFIRM:
                _ = await self._persistently(
                    warmed,
                    State.FETCHING,
                    partial(self._links.confirm_blob, scope, digest),
                )
        return missing

    async def _fetch_blob(
        self, warmed: Warmed, scope: Scope, digest: Digest, size: int, bounds: Bounds
    ) -> None:
        source = self._registries[scope.repository.namespace].blobs(scope, bounds.limit)

        async def fetch() -> None:
            for _ in range(_GIVEN_WAY):
                error = await self._fills.fetch(source, digest, size)
                if error is not None:
                    raise error.with_traceback(None)
                if await self._store.is_stored(digest):
                    return
            raise Unavailable("clients went before it all the time")

        await self._persistently(warmed, State.FETCHING, fetch)
        warmed.fetched_blobs += 1
        warmed.fetched_size += size

    async def _persistently(
        self, warmed: Warmed, state: State, work: Callable[[], Awaitable[_T]]
    ) -> _T:
        """Do it, again where upstream is in trouble for a while. Raises RegistryError."""
        for failures in range(1, _TRIES):
            try:
                return await work()
            except Unavailable as error:
                pause = error.retry_after or _AGAIN.delay(failures, roll=self._random.random())
                if pause > _LONGEST_PAUSE:
                    raise
                warmed.state, warmed.trouble = State.PAUSING, str(error)
                _logger.info("warming pauses: %s", error)
                await asyncio.sleep(pause)
                warmed.state, warmed.trouble = state, None
        return await work()

    # Pulls that are left for people

    async def _learn_quota(self, scope: Scope, reference: Reference, bounds: Bounds) -> None:
        """By HEAD, which costs no pull: what was told last may be days old."""
        if bounds.leave_quota is None:
            return
        registry = self._registries[scope.repository.namespace]
        with suppress(RegistryError):
            if isinstance(reference, Tag):
                _ = await registry.head_tag(scope, reference, None)
            else:
                await registry.confirm_manifest(scope, reference)

    def _require_pulls(self, upstream: str, bounds: Bounds) -> None:
        left = self._registries[upstream].pulls_left
        if bounds.leave_quota is not None and left is not None and left <= bounds.leave_quota:
            raise QuotaReached(f"{left} pulls are left, and {bounds.leave_quota} are for people")
