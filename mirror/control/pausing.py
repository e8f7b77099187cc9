"""Endpoints that an operator has paused: they are asked nothing until somebody has them go on.

A body that is under way ends as it will; nothing new is asked, no probe and no token either, and a
push goes no further. A pause outlasts restarts, for nobody decides that a process dies; so it
stands in a file of this mirror's own store: it is about this host's line, and not about what
registries have said. It ends with the endpoint's being configured.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from mirror.control import acts
from mirror.oci.errors import StoreError
from mirror.pull.not_done import NothingHere
from mirror.sources.registry.endpoint import Endpoint
from mirror.sources.registry.registry import Registry
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

FILE = "paused-endpoints.json"

_Key = tuple[str, str]  # upstream, and the endpoint's name


class _Paused(msgspec.Struct, frozen=True):
    """As it stands in the file; `since` in seconds since the epoch."""

    upstream: str
    endpoint: str
    since: float


class Pausing:
    """Pauses endpoints. `registries` are those that are configured; `clock` as `since`."""

    def __init__(
        self,
        file: Path,
        registries: Callable[[], Mapping[str, Registry]],
        clock: Callable[[], float],
    ) -> None:
        self._file = file
        self._registries = registries
        self._clock = clock
        self._since: dict[_Key, float] = {}
        self._writing = asyncio.Lock()

    async def begin(self) -> None:
        """Pause what was paused when the mirror ended. Raises StoreError."""
        try:
            self._since = await asyncio.to_thread(_read, self._file)
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(
                f"{self._file} cannot be read ({error}): remove it, and no endpoint is paused"
            ) from error
        self.apply()

    def apply(self) -> None:
        """Have the endpoints that there are now as they were paused; the others are forgotten."""
        there = {(upstream, one.name): one for upstream, one in self._all()}
        self._since = {key: since for key, since in self._since.items() if key in there}
        for key, one in there.items():
            one.condition.pause(self._since.get(key))

    async def pause(self, wanted: acts.EndpointName) -> acts.Paused:
        """Ask these nothing any more. Raises NothingHere, StoreError."""
        return await self._set(wanted, self._clock())

    async def resume(self, wanted: acts.EndpointName) -> acts.Paused:
        """Ask these again. Raises NothingHere, StoreError."""
        return await self._set(wanted, None)

    async def _set(self, wanted: acts.EndpointName, since: float | None) -> acts.Paused:
        async with self._writing:  # one after the other, to the file too
            keys = self._find(wanted)
            before = dict(self._since)
            for key in keys:
                self._since.pop(key, None)
                if since is not None:
                    self._since[key] = before.get(key, since)
            try:
                await asyncio.to_thread(_write, self._file, self._since)
            except OSError as error:
                self._since = before
                raise StoreError(f"{self._file} cannot be written: {error.strerror}") from error
            self.apply()
        done = "an endpoint is asked again" if since is None else "an endpoint is asked nothing"
        for upstream, endpoint in keys:
            _logger.warning(
                f"{done}: an operator says so",  # noqa: G004 - one of two
                extra=fields(upstream=upstream, endpoint=endpoint),
            )
        return acts.Paused(
            paused=[
                acts.PausedEndpoint(upstream=upstream, endpoint=endpoint, since=when)
                for (upstream, endpoint), when in sorted(self._since.items())
            ]
        )

    def _find(self, wanted: acts.EndpointName) -> list[_Key]:
        found = [
            (upstream, one.name)
            for upstream, one in self._all()
            if wanted.upstream == upstream
            and wanted.endpoint in {None, one.name, one.config.url, one.config.host}
        ]
        if not found:
            what = f"endpoint {wanted.endpoint}" if wanted.endpoint else "endpoint"
            raise NothingHere(f"{wanted.upstream} has no {what}, by the configuration")
        return found

    def _all(self) -> Iterator[tuple[str, Endpoint]]:
        for name, registry in self._registries().items():
            for one in registry.endpoints:
                yield name, one


def _read(file: Path) -> dict[_Key, float]:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    paused = msgspec.json.decode(content, type=list[_Paused])
    return {(it.upstream, it.endpoint): it.since for it in paused}


def _write(file: Path, since: Mapping[_Key, float]) -> None:
    """All of it, or nothing: another file takes its place."""
    if not since:
        with suppress(FileNotFoundError):
            file.unlink()
        return
    paused = [_Paused(*key, when) for key, when in since.items()]
    new = file.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(paused))
    new.replace(file)
