"""Certificates and passwords are read anew when somebody asks for it, and when a file changes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

from mirror.config import Server
from mirror.front.workers.last_good import files_of
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics, ReloadOutcome

_logger = logging.getLogger(__name__)

_EVERY = 5.0  # seconds between looks at the files
_SETTLED = 0.5  # seconds; whoever renews a certificate writes its key a moment later

Renew = Callable[[], Awaitable[set[str]]]
"""Has everyone take up what is in the files; gives what is wrong with it, which stays as it was."""

_Look = tuple[tuple[int, int, int] | None, ...]  # of each file: inode, change, size


class Reloading:
    """Tells when to read anew. `ask` may be called by a signal's handler."""

    def __init__(self, server: Server, renew: Renew, metrics: Metrics) -> None:
        self._files = [*files_of(server).values()]
        self._renew = renew
        self._metrics = metrics
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Read everything anew, whether it has changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Watch the files for ever."""
        seen = await asyncio.to_thread(_look, self._files)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await self._asked.wait()
            is_asked = self._asked.is_set()
            self._asked.clear()
            found = await asyncio.to_thread(_look, self._files)
            if found == seen and not is_asked:
                continue
            if not is_asked:
                await asyncio.sleep(_SETTLED)
                found = await asyncio.to_thread(_look, self._files)
            seen = found
            await self._read_anew()

    async def _read_anew(self) -> None:
        problems = await self._renew()
        for problem in sorted(problems):
            _logger.error("what was read before stays in use: %s", problem)
        outcome = ReloadOutcome.FAILED if problems else ReloadOutcome.DONE
        self._metrics.reloads.labels(outcome).inc()
        _logger.info(
            "certificates and passwords have been read anew; other settings change with a restart",
            extra=fields(files=len(self._files), problems=len(problems)),
        )


def _look(files: Iterable[Path]) -> _Look:
    return tuple(map(_look_at, files))


def _look_at(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
