"""Settings, certificates and passwords are read anew: when somebody asks, files as they change."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from mirror.aio.lives import Life
from mirror.config import Config, ConfigError, parse
from mirror.config.changing import change
from mirror.front.workers.certificates import find_lives
from mirror.front.workers.settings import files_of
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics, ReloadOutcome
from mirror.telemetry.service import ServiceManager

_logger = logging.getLogger(__name__)

_EVERY = 5.0  # seconds between looks at the files
_SETTLED = 0.5  # seconds; whoever renews a certificate writes its key a moment later

Renew = Callable[[Config], Awaitable[set[str]]]
"""Has everyone take up what is in the files; gives what is wrong with it, which stays as it was."""

Reread = Callable[[], Config]
"""The configuration as it is written now. Raises ConfigError."""

Take = Callable[[Config], None]
"""Has the mirror's own process go by this. Raises OSError: it goes on as before."""

_Look = tuple[tuple[int, int, int] | None, ...]  # of each file: inode, change, size


class Reloading:
    """Tells when to read anew. `ask` may be called by a signal's handler.

    `config` is what the mirror goes by. Where nobody can `reread` it, only files are read anew.
    """

    def __init__(
        self,
        config: Config,
        reread: Reread | None,
        *,
        take: Take,
        renew: Renew,
        metrics: Metrics,
        manager: ServiceManager,
    ) -> None:
        self.config = config
        self._reread = reread
        self._take = take
        self._renew = renew
        self._metrics = metrics
        self.manager = manager
        self._asked = asyncio.Event()
        self.lives: dict[str, Life] = {}
        """How long the first certificate of a file lives that ends, by setting."""

    async def set_log_level(self, level: str) -> None:
        """Have everyone log from this level on, until settings are read anew."""
        log = self.config.log.model_copy(update={"level": level})
        self.config = self.config.model_copy(update={"log": log})
        self._take(self.config)
        await self._renew(self.config)

    def ask(self) -> None:
        """Read everything anew, whether it has changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Watch the files for ever."""
        seen = await self._look()
        await self._note_lives()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await self._asked.wait()
            is_asked = self._asked.is_set()
            self._asked.clear()
            found = await self._look()
            if found == seen and not is_asked:
                continue
            if not is_asked:
                await asyncio.sleep(_SETTLED)
            self.manager.reloading()
            problems = await self._change() if is_asked else set()
            seen = await self._look()
            self._tell(problems | await self._renew(self.config))
            await self._note_lives()
            self.manager.tell(READY="1")

    async def _look(self) -> _Look:
        files = [*map(Path, files_of(self.config.server).named().values())]
        return await asyncio.to_thread(lambda: tuple(map(_look_at, files)))

    async def _note_lives(self) -> None:
        self.lives = await asyncio.to_thread(find_lives, self.config.server)
        for name, life in self.lives.items():
            self._metrics.certificate_ends.labels(name).set(life.ends)

    async def _change(self) -> set[str]:
        """Take up what is written now, as far as it can change; what is wrong with it."""
        if self._reread is None:
            return set()
        try:
            wanted = await asyncio.to_thread(self._reread)
            document, waiting = change(self.config, wanted)
            config = await asyncio.to_thread(parse, document, source="what would be in effect")
            self._take(config)
        except (ConfigError, OSError) as error:
            return {*str(error).splitlines()}
        if waiting:
            _logger.warning(
                "some settings change with a restart only", extra=fields(settings=",".join(waiting))
            )
        self.config = config
        return set()

    def _tell(self, problems: set[str]) -> None:
        for problem in sorted(problems):
            _logger.error("what was read before stays in use: %s", problem)
        outcome = ReloadOutcome.FAILED if problems else ReloadOutcome.DONE
        self._metrics.reloads.labels(outcome).inc()
        _logger.info(
            "settings, certificates and passwords have been read anew",
            extra=fields(upstreams=",".join(self.config.upstream), problems=len(problems)),
        )


def _look_at(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
