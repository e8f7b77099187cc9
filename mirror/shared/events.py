"""What one mirror has said, and all others hear: at once, or when they are back.

    an event is a row, written with what it tells of, in one transaction
    whoever listens is notified        behind PgBouncer nobody is: then rows are looked for
    whoever was away reads the rows    from a little before the last one that was heard

Rows become visible in another order than their numbers have, so a little is always read again; to
hear of something twice does no harm.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.oci.reference import Repository
from mirror.shared.database import Database

_logger = logging.getLogger(__name__)

_CHANNEL = "mirror_events"
_POLL = 0.5  # seconds, where nobody notifies
_LOOK_EVERY = 15.0  # seconds, where somebody does
_OVERLAP = 35.0  # seconds; no transaction takes longer
_PAGE = 1000
_DIGESTS = 40  # in one event: a notification has at most 8,000 bytes


class TagMoved(Struct, frozen=True, tag="tag", array_like=True):
    """A tag means something, or something else."""

    repository: Repository
    tag: str


class TagForgotten(Struct, frozen=True, tag="no tag", array_like=True):
    """A tag is to be asked for anew."""

    repository: Repository
    tag: str


class LinksForgotten(Struct, frozen=True, tag="no links", array_like=True):
    """The repository is not known any more to have these."""

    repository: Repository
    digests: tuple[Digest, ...]


class ReferrersForgotten(Struct, frozen=True, tag="no referrers", array_like=True):
    """What refers to a digest is to be asked for anew."""

    repository: Repository
    digest: Digest


class Paused(Struct, frozen=True, tag="pause", array_like=True):
    """An endpoint wants to be left alone with a kind of request, `until` (by the database)."""

    upstream: str
    endpoint: str
    requests: str
    until: float


class QuotaTold(Struct, frozen=True, tag="quota", array_like=True):
    """What an endpoint says of pulls: so many are allowed, and left."""

    upstream: str
    endpoint: str
    limit: int | None
    remaining: int | None


class PinsChanged(Struct, frozen=True, tag="pins", array_like=True):
    """Operators have pinned something, or no longer."""


Event = (
    TagMoved | TagForgotten | LinksForgotten | ReferrersForgotten | Paused | QuotaTold | PinsChanged
)

_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)

_EMIT = (
    "WITH said AS (INSERT INTO mirror.events (origin, event) VALUES ($1, $2) RETURNING id, at)"
    " SELECT pg_notify($3, json_build_array(id, extract(epoch FROM at), $1::text, $2::text)::text)"
    " FROM said"
)
_READ = (
    "SELECT id, extract(epoch FROM at)::float8, origin, event FROM mirror.events"
    " WHERE at > to_timestamp($1) AND id <> ALL($2::bigint[]) ORDER BY id LIMIT $3"
)


async def emit(connection: Any, origin: str, event: Event) -> None:
    """Say it, on a connection that is in a transaction. `origin` is who knows already."""
    for part in _parts(event):
        await connection.execute(_EMIT, origin, msgspec.json.encode(part).decode(), _CHANNEL)


def _parts(event: Event) -> list[Event]:
    if not isinstance(event, LinksForgotten):
        return [event]
    return [
        LinksForgotten(event.repository, event.digests[start : start + _DIGESTS])
        for start in range(0, len(event.digests), _DIGESTS)
    ]


class Events:
    """Hears what others say: `hear` is called with each event, one after another.

    `heard` is the time (by the database) of the last event that was heard before; None: this mirror
    is new. `note_heard` is told from time to time.
    """

    def __init__(
        self,
        database: Database,
        *,
        origin: str,
        hear: Callable[[Event], Awaitable[None]],
        heard: float | None,
        note_heard: Callable[[float], Awaitable[None]],
    ) -> None:
        self._database = database
        self._origin = origin
        self._hear = hear
        self._last = heard
        self._noted = heard
        self._note_heard = note_heard
        self._known: dict[int, float] = {}  # rows that were heard, and when they were written
        self._notified: list[str] = []
        self._wake = asyncio.Event()
        self._is_behind = True
        self.count = 0

    async def follow(self) -> None:
        """Hear, for ever."""
        self._database.listen(_CHANNEL, self._note)
        self._database.subscribe_up(self._note_up)
        while True:
            hears = self._database.hears
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY if hears else _POLL):
                    await self._wake.wait()
                    self._wake.clear()
            notified, self._notified = self._notified, []
            try:
                if not self._is_behind:
                    await self._take_notified(notified)
                if not notified or self._is_behind:
                    await self._catch_up()
                await self._note_progress()
            except StoreError as error:  # it is read again, from what was heard last
                self._is_behind = True
                _logger.debug("not heard yet: %s", error)
                if self._database.is_up:
                    await asyncio.sleep(_POLL)
                    self._wake.set()

    def _note(self, payload: str) -> None:
        self._notified.append(payload)
        self._wake.set()

    async def _take_notified(self, notified: list[str]) -> None:
        """Raises StoreError: an event cannot be done here now."""
        for payload in notified:
            try:
                told = msgspec.json.decode(payload, type=tuple[int, float, str, str])
            except msgspec.DecodeError:  # whoever may connect to the database may notify anything
                continue
            if (
                told[1] < self._database.now() + _OVERLAP
            ):  # else it would keep others from being read
                await self._take(*told)

    def _note_up(self) -> None:
        self._is_behind = True
        self._wake.set()

    async def _catch_up(self) -> None:
        """Read what was said meanwhile. Raises StoreError, also where it cannot be done here."""
        if not self._database.is_up:
            return  # also its clock is not known yet
        if self._last is None:
            self._last = self._database.now()
        self._is_behind = False
        while True:
            rows = await self._database.fetch(
                _READ, self._last - _OVERLAP, list(self._known), _PAGE
            )
            for row in rows:
                await self._take(*row)
            if len(rows) < _PAGE:
                return

    async def _take(self, number: int, at: float, origin: str, encoded: str) -> None:
        if number in self._known:
            return
        self._known[number] = at
        if origin != self._origin:
            try:
                await self._do(encoded)
            except StoreError:
                del self._known[number]
                raise
        self._last = max(self._last or 0.0, at)

    async def _do(self, encoded: str) -> None:
        try:
            event = _DECODER.decode(encoded)
        except msgspec.DecodeError:
            return  # a newer mirror's word for something that is not done here yet
        await self._hear(event)
        self.count += 1

    async def _note_progress(self) -> None:
        if self._last is None:
            return
        oldest = self._last - 2 * _OVERLAP
        for number in [it for it, at in self._known.items() if at < oldest]:
            del self._known[number]
        if self._noted is None or self._last > self._noted + _OVERLAP:
            self._noted = self._last
            await self._note_heard(self._last)
