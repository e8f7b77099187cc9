"""What one mirror has said, and all others hear: at once, or when they are back.

    an event is a row, written with what it tells of, in one transaction
    whoever listens is notified        of its number, and reads it: anybody who may connect to the
                                       database may notify anything, and is believed nothing
    behind PgBouncer nobody is         there rows are looked for
    whoever was away reads the rows    from a little before the last one that was heard; all, where
                                       that is in the future: the database's clock was set back
    what cannot be done here now       (the disk is full, say) is set aside, and tried again;
                                       nothing else waits for it

Rows become visible in another order than their numbers have, so a little is always read again; to
hear of something twice does no harm.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
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
_DIGESTS = 40  # in one event
_NUMBER = re.compile("[0-9]{1,18}")  # of a row; PostgreSQL knows no much larger ones
_MOST_UNDONE = 1000  # events, of 8,000 bytes at most


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
    "WITH said AS (INSERT INTO mirror.events (origin, event) VALUES ($1, $2) RETURNING id)"
    " SELECT pg_notify($3, id::text) FROM said"
)
_SELECT = (
    "SELECT id, extract(epoch FROM at)::float8, origin, event FROM mirror.events"
    " WHERE at > to_timestamp($1) AND"
)
_READ_FORGOTTEN = f"{_SELECT} origin <> $2 AND event LIKE '[\"no %' ORDER BY id"
_READ_ALL = f"{_SELECT} id <> ALL($2::bigint[]) ORDER BY id LIMIT $3"
_READ_THESE = f"{_SELECT} id = ANY($2::bigint[]) ORDER BY id LIMIT $3"


async def emit(connection: Any, origin: str, event: Event) -> None:
    """Say it, on a connection that is in a transaction. `origin` is who knows already."""
    for part in _parts(event):
        await connection.execute(_EMIT, origin, msgspec.json.encode(part).decode(), _CHANNEL)


async def list_forgotten(connection: Any, origin: str, since: float) -> list[tuple[float, Event]]:
    """What others than `origin` have forgotten since then (by the database), and when."""
    rows = await connection.fetch(_READ_FORGOTTEN, since, origin)
    found: list[tuple[float, Event]] = []
    for _, at, _, encoded in rows:
        with suppress(msgspec.DecodeError):  # a newer mirror's word
            found.append((at, _DECODER.decode(encoded)))
    return found


def _parts(event: Event) -> list[Event]:
    if not isinstance(event, LinksForgotten):
        return [event]
    return [
        LinksForgotten(event.repository, event.digests[start : start + _DIGESTS])
        for start in range(0, len(event.digests), _DIGESTS)
    ]


class Events:
    """Hears what others say: `hear` is called with each event, one after another.

    `heard` is the time (by the database) of the last event that was heard before; 0: all that there
    is may be news; None: this mirror is new, and none is. `note_heard` is told from time to time;
    never of a time after what could not be done. `hear` raises StoreError where that is so.
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
        self._noted = heard or None  # 0 is no time that was noted
        self._note_heard = note_heard
        self._known: dict[int, float] = {}  # rows that were heard, and when they were written
        self._undone: dict[int, tuple[float, str]] = {}  # what could not be done: when, and what
        self._dropped_at: float | None = None  # since when there was no room for more of these
        self._notified = set[int]()
        self._wake = asyncio.Event()
        self._is_behind = True
        self.count = 0
        self.trouble: str | None = None  # why some of it cannot be done here

    @property
    def undone(self) -> int:
        """How much of what was heard could not be done here yet."""
        return len(self._undone)

    async def follow(self) -> None:
        """Hear, for ever."""
        self._database.listen(_CHANNEL, self._note)
        self._database.subscribe_up(self._note_up)
        while True:
            is_soon = bool(self._undone) or not self._database.hears
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL if is_soon else _LOOK_EVERY):
                    await self._wake.wait()
                    self._wake.clear()
            notified, self._notified = self._notified, set()
            try:
                self._see_clock()
                if notified and not self._is_behind:
                    await self._read_notified(notified)
                else:
                    await self._catch_up()
                await self._try_again()
                await self._note_progress()
            except StoreError as error:  # it is read again, from what was heard last
                self._is_behind = True
                _logger.debug("not heard yet: %s", error)
                if self._database.is_up:
                    await asyncio.sleep(_POLL)
                    self._wake.set()

    def _note(self, payload: str) -> None:
        if len(self._notified) >= _PAGE:
            self._is_behind = True
        elif _NUMBER.fullmatch(payload):
            self._notified.add(int(payload))
        self._wake.set()

    async def _read_notified(self, numbers: set[int]) -> None:
        """Read the rows of these, where they are not old. Raises StoreError."""
        if new := numbers - self._known.keys():
            for row in await self._read(_READ_THESE, new):
                await self._take(*row)

    def _note_up(self) -> None:
        self._is_behind = True
        self._wake.set()

    def _see_clock(self) -> None:
        """Read all there is where the database's clock was set back.

        What is said now is not later than what was heard last, and nobody knows since when.
        """
        if self._database.is_up and (self._last or 0.0) > self._database.now() + _OVERLAP:
            self._last, self._noted, self._is_behind = 0.0, None, True

    async def _catch_up(self) -> None:
        """Read what was said meanwhile. Raises StoreError."""
        if not self._database.is_up:
            return  # also its clock is not known yet
        if self._last is None:
            self._last = self._database.now()
        self._is_behind = False
        while True:
            rows = await self._read(_READ_ALL, self._known)
            for row in rows:
                await self._take(*row)
            if len(rows) < _PAGE:
                return

    async def _read(self, sql: str, numbers: Iterable[int]) -> list[Any]:
        return await self._database.fetch(sql, (self._last or 0.0) - _OVERLAP, list(numbers), _PAGE)

    async def _take(self, number: int, at: float, origin: str, encoded: str) -> None:
        if number in self._known:
            return
        self._known[number] = at
        now = self._database.now()
        self._last = max(self._last or 0.0, min(at, now))
        if origin != self._origin:
            try:
                await self._do(encoded, is_of_before=at > now + _OVERLAP)
            except StoreError as error:
                self._set_aside(number, at, encoded, error)

    def _set_aside(self, number: int, at: float, encoded: str, error: StoreError) -> None:
        if self.trouble is None:
            _logger.warning("what another mirror has said cannot be done here yet: %s", error)
        self.trouble = str(error)
        if len(self._undone) < _MOST_UNDONE:
            self._undone[number] = at, encoded
        else:  # it is read again when there is room
            self._dropped_at = min(at, self._dropped_at or at)

    async def _try_again(self) -> None:
        """Do what could not be done, up to the first of it that still cannot; that goes last."""
        while self._undone:
            number, (at, encoded) = next(iter(self._undone.items()))
            try:
                await self._do(encoded)
            except StoreError as error:
                self.trouble = str(error)
                del self._undone[number]
                self._undone[number] = at, encoded
                return
            del self._undone[number]
        self.trouble = None
        if self._dropped_at is not None:
            self._last, self._dropped_at, self._is_behind = self._dropped_at, None, True
            self._known.clear()
            self._wake.set()

    async def _do(self, encoded: str, *, is_of_before: bool = False) -> None:
        """`is_of_before`: it was said before the database's clock was set back."""
        try:
            event = _DECODER.decode(encoded)
        except msgspec.DecodeError:
            return  # a newer mirror's word for something that is not done here yet
        if is_of_before and isinstance(event, Paused):
            return  # nobody knows when it ends
        await self._hear(event)
        self.count += 1

    async def _note_progress(self) -> None:
        if self._last is None:
            return
        oldest = self._last - 2 * _OVERLAP
        for number in [it for it, at in self._known.items() if at < oldest]:
            del self._known[number]
        heard = min(
            self._last, *(at for at, _ in self._undone.values()), self._dropped_at or self._last
        )
        if self._noted is None or heard > self._noted + _OVERLAP:
            self._noted = heard
            await self._note_heard(heard)
