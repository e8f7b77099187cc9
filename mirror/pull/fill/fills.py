"""The fills in flight, by digest: whoever asks for what is already coming joins it."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from random import Random

from cachetools import TTLCache

from mirror.aio.slots import Slots, Urgency
from mirror.aio.tasks import Starter
from mirror.config import Fill as FillConfig
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError
from mirror.pull.fill.fill import Fill, Settings, State
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.errors import TooLarge
from mirror.storage.ports import Storage
from mirror.telemetry.metrics import Metrics

_TOO_LARGE_FOR = 600.0  # seconds for which a blob larger than the store is not tried again
_TOO_LARGE = 1024  # digests


class Fills:
    """Starts fills, and finds those that run. They belong to `tasks`."""

    def __init__(
        self,
        config: FillConfig,
        registries: Mapping[str, Registry],
        store: Storage,
        *,
        tasks: Starter,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        random: Random,
    ) -> None:
        self._settings = Settings(config.connections, config.segment_size, config.attempts)
        self._places = Slots(config.max_active)
        self._registries = registries
        self._store = store
        self._tasks = tasks
        self._metrics = metrics
        self._clock = clock
        self._random = random
        self._fills: dict[Digest, Fill] = {}
        self._too_large: TTLCache[Digest, str] = TTLCache(
            _TOO_LARGE, ttl=_TOO_LARGE_FOR, timer=clock
        )

    def __iter__(self) -> Iterator[Fill]:
        return iter(list(self._fills.values()))

    def is_running(self, digest: Digest) -> bool:
        """Whether this blob is on its way already."""
        return self._find(digest) is not None

    async def join(self, scope: Scope, digest: Digest, size: int | None) -> Fill:
        """Read along with the fill of `digest`, begun now if need be; `Fill.leave` when done.

        `size` is what a manifest has told, in bytes.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
            NoRoom: The blob cannot be kept: stream it through.
        """
        if (reason := self._too_large.get(digest)) is not None:
            raise TooLarge(reason)
        while True:
            fill = self._find(digest) or self._start(scope, digest, size, Urgency())
            fill.join(scope)
            try:
                await fill.started()
            except RegistryError:
                fill.leave()
                # What upstream told another repository or client need not hold for this one.
                if fill.scope == scope:
                    raise
            except BaseException:
                fill.leave()
                raise
            else:
                return fill

    def prefetch(self, scope: Scope, digest: Digest, size: int) -> None:
        """Begin a fill that nobody waits for yet; whoever joins it makes it urgent."""
        if digest not in self._too_large and self._find(digest) is None:
            self._start(scope, digest, size, Urgency(is_urgent=False))

    def _find(self, digest: Digest) -> Fill | None:
        fill = self._fills.get(digest)
        return None if fill is None or fill.state is State.FAILED else fill

    def _start(self, scope: Scope, digest: Digest, size: int | None, urgency: Urgency) -> Fill:
        # A client's token may end before the blob does: one request, let in once, outlives it.
        is_personal = scope.authorization is not None
        settings = replace(self._settings, connections=1) if is_personal else self._settings
        fill = self._fills[digest] = Fill(
            digest, scope, self._registries[scope.repository.namespace], self._store,
            size=size, settings=settings, places=self._places, urgency=urgency,
            metrics=self._metrics, clock=self._clock, random=self._random,
        )  # fmt: skip
        self._tasks.create_task(self._run(fill), name="fill")
        return fill

    async def _run(self, fill: Fill) -> None:
        try:
            await fill.run()
        finally:
            if self._fills.get(fill.digest) is fill:
                del self._fills[fill.digest]
            if isinstance(fill.error, TooLarge):
                self._too_large[fill.digest] = str(fill.error)
