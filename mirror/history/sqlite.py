"""History in an SQLite file of its own (`history.sql`): to lose it costs nobody a pull.

Pulls and arrivals go after `keep_pulls`; hours become days after a year, and days go after
`keep_totals`. Where the file is larger than it may be, the oldest go of what takes more of it:
pulls and arrivals, or totals.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from mirror.history import statements
from mirror.history.ports import (
    DAY,
    Again,
    Arrival,
    Batch,
    Cost,
    Down,
    Known,
    Pull,
    PullFilter,
    Spell,
    Sum,
    Total,
    TotalsFilter,
    Use,
    Waste,
)
from mirror.sqlite import Database, Schema, Statement
from mirror.telemetry.traffic import Result, Why

SCHEMA = Schema(
    name="history",
    application_id=0x6D697268,  # "mirh"
    package="mirror.history",
    scripts=("history.sql", "history_spells.sql"),
    loss=("no image is affected; what it told of past pulls is lost"),
)

_HOURS_FOR = 366 * DAY  # seconds for which hours are told apart
_FRESH = 600.0  # seconds within which what has come may still be on its way to a client
_BATCH = 1000  # rows that go at a time for their age, and
_FEW = 200  # for want of room
_PORTION = 2**22  # bytes that are given back at a time
_WEIGHT = 4  # a pull takes so many times what a total does
_MOST_SPELLS = 20_000  # some 2 MB
_ANY = 2**62  # more than any number of a row
_SLACK = 2**20  # bytes that the file may have to spare


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long, in seconds, and how much, in bytes."""

    keep_pulls: float
    keep_totals: float
    max_size: int
    keeps_clients: bool = True


class SqliteHistory:
    """Implements `history.ports.History`. Use `SqliteHistory.open`."""

    def __init__(self, database: Database, bounds: Bounds, private: Collection[str]) -> None:
        self._database = database
        self._bounds = bounds
        self._private = private

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        bounds: Bounds,
        *,
        private: Collection[str] = (),
        sets_aside: bool = True,
    ) -> AsyncIterator["SqliteHistory"]:
        """Open the file, and make it where need be. `private`: the upstreams whose pulls are.

        Addresses that are kept no longer are forgotten at once. `sets_aside` as for a `Database`.

        Raises:
            StoreError: The file is damaged, not ours, or from a newer mirror.
        """
        async with Database.open(path, SCHEMA, sets_aside=sets_aside) as database:
            if not bounds.keeps_clients:
                await database.write(Statement(statements.FORGET_CLIENTS, [()]))
            yield cls(database, bounds, private)

    async def begin(self, repositories: int, unused: int) -> Known:
        """What there is already."""
        ((pull, arrival),) = await self._database.rows(statements.NEXT, (), lambda *row: row)
        names = await self._database.page(statements.NAMES, (repositories,), str)
        return Known(pull, arrival, names, await self._arrivals(statements.UNUSED, (unused,)))

    async def record(self, batch: Batch) -> None:
        """Have it kept, all or nothing."""
        is_kept = bool(self._bounds.keep_pulls)
        pulls = batch.pulls if is_kept else ()
        arrivals = batch.arrivals if is_kept else ()
        all_of_it: tuple[Pull | Sum | Arrival, ...] = (*pulls, *batch.sums, *arrivals)
        named = {(it.upstream, it.repository or "") for it in all_of_it}
        await self._database.write(
            Statement(statements.ADD_NAME, sorted(named)),
            Statement(statements.PUT_PULL, [statements.of_pull(it) for it in pulls]),
            Statement(statements.ADD, [statements.of_sum(astuple(it)) for it in batch.sums]),
            Statement(statements.PUT_ARRIVAL, [statements.of_arrival(it) for it in arrivals]),
            is_durable=False,
        )

    async def list_pulls(self, wanted: PullFilter, limit: int) -> list[Pull]:
        """The latest first."""
        sql, values = statements.pulls(wanted)
        return await self._database.page(sql, (*values, limit), self._pull)

    async def list_totals(self, wanted: TotalsFilter, limit: int) -> list[Total]:
        """The latest first."""
        sql, values = statements.totals(wanted)
        return await self._database.page(sql, (*values, limit), self._total)

    async def sum_repositories(self, repositories: Sequence[str], since: float) -> dict[str, Use]:
        """What was pulled of each of these."""
        sql, values = statements.sums_of(repositories, since)
        return dict(await self._database.page(sql, values, _use))

    async def sum_images(
        self, repository: str, digests: Sequence[str], since: float
    ) -> dict[str, Use]:
        """What was pulled of these images of a repository."""
        sql, values = statements.sums_of_images(repository, digests, since)
        return dict(await self._database.page(sql, values, _use))

    async def list_arrivals(
        self, digest: str | None, limit: int, *, hidden: Collection[str] = ()
    ) -> list[Arrival]:
        """Where a blob came from, or all did, the latest first."""
        sql, values = statements.arrivals(digest, hidden)
        return await self._arrivals(sql, (*values, limit))

    async def find_waste(
        self, since: float, now: float, limit: int, *, hidden: Collection[str] = ()
    ) -> Waste:
        """So many of each kind."""
        sql, values = statements.costs(since, hidden)
        costs = await self._database.page(sql, (*values, limit), self._cost)
        sql, values = statements.again(since, hidden)
        again = await self._database.page(sql, (*values, limit), self._again)
        sql, values = statements.wasted(since, now - _FRESH, hidden)
        unused = await self._arrivals(sql, (*values, limit))
        return Waste(since=since, costs=costs, again=again, unused=unused)

    async def find_next_spell(self) -> int:
        """The number of a spell that there is not."""
        (found,) = await self._database.rows(statements.NEXT_SPELL, (), int)
        return found

    async def record_spells(self, spells: Sequence[Spell]) -> None:
        """Have them kept."""
        rows = [statements.of_spell(it) for it in spells]
        await self._database.write(Statement(statements.PUT_SPELL, rows), is_durable=False)

    async def list_spells(self, since: float, before: int | None, limit: int) -> list[Spell]:
        """Those that ended after a time, the latest first."""
        values = (since, _ANY if before is None else before, limit)
        return await self._database.page(statements.SPELLS, values, _spell)

    async def list_longest_spells(
        self, since: float, limit: int, *, is_running: bool
    ) -> list[Spell]:
        """As the port says."""
        values = (since, is_running, limit)
        return await self._database.page(statements.LONGEST_SPELLS, values, _spell)

    async def sum_down(self, since: float, now: float) -> dict[tuple[str, str], Down]:
        """As the port says."""
        rows = await self._database.page(
            statements.SUM_DOWN,
            (since, now),
            lambda upstream, endpoint, *figures: ((upstream, endpoint), Down(*figures)),
        )
        return dict(rows)

    async def trim(self, now: float) -> None:
        """Let go what is kept no longer, or what there is too much of."""
        oldest = now - self._bounds.keep_pulls
        for sql in (statements.OLD_PULLS_GO, statements.OLD_ARRIVALS_GO):
            await self._repeat(sql, oldest)
        await self._fold(now - _HOURS_FOR)
        await self._write(statements.OLD_SPELLS_GO, (now - self._bounds.keep_totals, _MOST_SPELLS))
        await self._repeat(statements.OLD_TOTALS_GO, now - self._bounds.keep_totals)
        while (await self._database.measure()).used > self._bounds.max_size:
            if not await self._shed():
                break
        await self._write(statements.UNNAMED_GO, ())
        if (extent := await self._database.measure()).spare > _SLACK:
            await self._database.give_back(min(extent.spare, _PORTION))

    async def _shed(self) -> bool:
        """Let some of the oldest go; whether there was any."""
        pulls, arrivals, totals = before = await self._rows()
        if (pulls + arrivals) * _WEIGHT >= totals:
            await self._write(statements.SOME_PULLS_GO, (_FEW,))
            await self._write(statements.SOME_ARRIVALS_GO, (_FEW,))
        else:
            await self._write(statements.SOME_TOTALS_GO, (_FEW,))
        await self._write(statements.UNNAMED_GO, ())
        return await self._rows() != before

    async def _rows(self) -> tuple[int, ...]:
        (counts,) = await self._database.page(statements.COUNTS, (), lambda *row: row)
        return counts

    async def _repeat(self, sql: str, before: float) -> None:
        """Delete what is older, a batch at a time: nobody who writes waits for long."""
        while True:
            rows = await self._rows()
            await self._write(sql, (before, _BATCH))
            if await self._rows() == rows:
                return

    async def _fold(self, before: float) -> None:
        """Make whole days of hours."""
        day = int(before) // DAY * DAY
        await self._database.write(
            Statement(statements.FOLD, [(day,)]), Statement(statements.FOLDED_GO, [(day,)]),
            is_durable=False,
        )  # fmt: skip

    async def _write(self, sql: str, values: tuple[object, ...]) -> None:
        await self._database.write(Statement(sql, [values]), is_durable=False)

    async def _arrivals(self, sql: str, values: tuple[object, ...]) -> list[Arrival]:
        return await self._database.page(sql, values, self._arrival)

    def _pull(self, *row: object) -> Pull:
        values = _named(statements.PULL, row)
        values["result"], values["why"] = Result(str(values["result"])), Why(str(values["why"]))
        return _MAKE_PULL(**values, is_private=values["upstream"] in self._private)

    def _arrival(self, *row: object) -> Arrival:
        values = _named(statements.ARRIVAL, row)
        return _MAKE_ARRIVAL(**values, is_private=values["upstream"] in self._private)

    def _total(self, start: int, upstream: str | None, path: str | None, *figures: int) -> Total:
        pulls, hits, misses, failed, served, fetched, used, unused = figures
        return Total(
            start=start, upstream=upstream, repository=path or None, pulls=pulls, hits=hits,
            misses=misses, failed=failed, served=served, fetched=fetched,
            saved=max(0, served - used), wasted=max(0, unused),
            is_private=upstream in self._private,
        )  # fmt: skip

    def _cost(self, upstream: str, path: str, *figures: int) -> Cost:
        pulls, served, fetched, used, unused = figures
        return Cost(
            upstream=upstream, repository=path or None, pulls=pulls, served=served,
            fetched=fetched, saved=max(0, served - used), wasted=max(0, unused),
            is_private=upstream in self._private,
        )  # fmt: skip

    def _again(self, digest: str, upstream: str, path: str, *figures: int) -> Again:
        size, arrivals, fetched = figures
        return Again(
            digest=digest, repository=path or None, size=size, arrivals=arrivals, fetched=fetched,
            extra=fetched - size, is_private=upstream in self._private,
        )  # fmt: skip


def _use(name: str, *figures: int) -> tuple[str, Use]:
    return name, Use(*figures)


def _spell(*row: object) -> Spell:
    return _MAKE_SPELL(**dict(zip(statements.SPELL, row, strict=True)))


def _named(columns: Sequence[str], row: tuple[object, ...]) -> dict[str, object]:
    values: dict[str, object] = dict(zip(columns, row, strict=True))
    values["repository"] = values["repository"] or None
    return values


_MAKE_PULL: Callable[..., Pull] = Pull
_MAKE_SPELL: Callable[..., Spell] = Spell
_MAKE_ARRIVAL: Callable[..., Arrival] = Arrival
