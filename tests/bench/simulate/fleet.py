"""`python -m tests.bench.simulate.fleet`: a thousand mirrors that want one cold blob. A simulation.

Turns, pieces and what is heard of them are the mirror's own code (`mirror.shared.turns`, `pieces`,
`hearing`); time, lines, the database and the bucket are not: a clock that jumps from event to
event, rates and delays as they stand below, and a book in memory. What is counted: what upstream
sends, what the database is asked and tells, and how late a mirror is done. That a real database
bears so much it does not say; it says how much there would be.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import Annotated

import typer

from mirror.shared.hearing import Hearing, tell
from mirror.shared.pieces import Piece, Pieces
from mirror.shared.turns import Act, State, Turn
from tests.support.memory_ledger import Book, Row

MIB = 2**20
UPSTREAM, DIGEST = "docker.io", "sha256:one"
_LEASE, _PATIENCE, _PAUSE = 15.0, 40.0, 1.0  # seconds; as shipped, where the database notifies
_ARRIVE_WITHIN = 1.0  # seconds, in which all mirrors are asked for the blob
_TRIP = 0.002  # seconds for a statement, and for a notification
_FIRST_BYTE = 0.03  # seconds, of the bucket
_LINE, _CARD = 100e6, 1.25e9  # bytes a second: to upstream, and of each mirror
_TICK = 1.0  # seconds, at most, before who waits looks at the clock


@dataclass(eq=False)
class World:
    """All that happens, in the order of time; what is asked and told is counted by the second."""

    size: int
    dice: Random
    book: Book = field(default_factory=lambda: Book(patience=_PATIENCE))
    put: list[Piece] = field(default_factory=list)  # in the order of their records
    mirrors: list["Mirror"] = field(default_factory=list)
    upstream: float = 0.0  # bytes
    statements: Counter[str] = field(default_factory=Counter)
    notified: int = 0
    seconds: Counter[int] = field(default_factory=Counter)  # statements in each
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)

    @property
    def row(self) -> Row | None:
        return self.book.rows.get((UPSTREAM, DIGEST))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.book.now + seconds, next(self._numbers), act))

    def run(self) -> None:
        while self._events and not all(it.is_over for it in self.mirrors):
            self.book.now, _, act = heapq.heappop(self._events)
            act()

    def ask(self, what: str) -> None:
        self.statements[what] += 1
        self.seconds[int(self.book.now)] += 1

    def notify(self, word: str) -> None:
        for mirror in self.mirrors:
            if not mirror.is_dead:
                self.notified += 1
                self.after(_TRIP, partial(mirror.hear, word))


@dataclass(eq=False)
class Mirror:
    """Does what its turn says, as `mirror.shared.part` and `publish` do."""

    world: World
    name: str
    turn: Turn = field(init=False)
    pieces: Pieces = field(init=False)
    hearing: Hearing = field(init=False)
    vouched: set[str] = field(default_factory=set)
    blob: int | None = None
    seen: int = 0  # of the pieces on record
    has: float = 0.0  # bytes from the start, on its disk
    first: float | None = None  # when it had its first bytes
    is_done: bool = False
    is_dead: bool = False
    _is_asking: bool = False
    _is_news: bool = False
    _is_reading: bool = False
    _is_putting: bool = False
    _fetching: tuple[float, float] | None = None  # since when, and what it had by then

    def __post_init__(self) -> None:
        self.turn = Turn(_LEASE, _PATIENCE, _PAUSE * (0.75 + self.world.dice.random() / 2))
        self.pieces = Pieces()
        self.hearing = Hearing(self.pieces)

    @property
    def is_over(self) -> bool:
        return self.is_dead or (self.is_done and self.turn.state in {State.READING, State.OVER})

    def begin(self) -> None:
        self._tick()
        self._wait()

    def hear(self, word: str) -> None:
        if self.blob is None or self.is_over:
            return
        now, reach = self.world.book.now, self.pieces.reach(0)
        if self.turn.state is not State.FOLLOWING or not self.hearing.hear(word):
            self._is_news = True
            self.turn.heard(now)
            self._tick()
        elif self.pieces.reach(0) > reach:
            self.turn.told(now)
            self._read()

    def _wait(self) -> None:
        if not self.is_over:
            self.turn.waited(self.world.book.now)
            self._tick()
            self.world.after(_TICK, self._wait)

    def _tick(self) -> None:
        if self.is_dead or self._is_asking or self.turn.state is State.OVER:
            return
        act, delay = self.turn.next(self.world.book.now)
        if act is Act.REST:
            return
        if delay > 0:
            self.world.after(delay, self._tick)
            return
        self._is_asking, self._is_news = True, False
        self.world.ask(act.name.lower())
        self.world.after(_TRIP, lambda: self._answered(act))

    def _answered(self, act: Act) -> None:
        self._is_asking = False
        if self.is_dead or self.turn.state is State.OVER:
            return
        world, now = self.world, self.world.book.now
        row = world.row
        if act is Act.RENEW:
            assert self.blob is not None
            mine = world.book.of(self.blob, self.turn.epoch)
            if mine is None:
                self.turn.lost(now)
            else:
                mine.until = now + self.turn.term
                self.turn.renewed(now)
        elif row is not None and (row.is_proved or not world.book.is_free(row, self.name)):
            self._look(row, now)
        elif act is Act.CLAIM:
            self._claim(now)
        else:
            self.turn.is_free(now)
        if self._is_news:
            self.turn.heard(now)
        self._tick()

    def _look(self, row: Row, now: float) -> None:
        self.blob = row.blob
        for piece in self.world.put[self.seen :]:
            if self.pieces.add(piece):
                self.turn.moved(now)
            self.hearing.note_read(piece)
        self.seen = len(self.world.put)
        (self.turn.is_proved if row.is_proved else self.turn.is_anothers)(now)
        self._read()

    def _claim(self, now: float) -> None:
        self.world.ask("claim it")
        row = self.world.book.claim(UPSTREAM, DIGEST, self.name, self.turn.term, grace=0.0)
        if row is None:
            self.turn.was_taken(now)
            return
        for piece in row.pieces.values():
            self.pieces.add(piece)
        self.blob = row.blob
        self.turn.won(row.epoch, now)
        self._fetch()

    def _read(self) -> None:
        """The next piece, from the bucket."""
        piece = self.pieces.find(int(self.has))
        if piece is None or self._is_reading or self.is_dead or self._fetching is not None:
            return
        self._is_reading = True

        def done() -> None:
            self._is_reading = False
            self.turn.begun(self.world.book.now)
            self.vouched.add(piece.key)
            self._have(piece.stop)
            if self.turn.may_read:
                self._read()
            elif self.turn.leads:
                self._fetch()

        # What was read ahead has had its first byte already.
        delay = _FIRST_BYTE if piece.start == 0 else 0.0
        self.world.after(delay + (piece.stop - piece.start) / _CARD, done)

    def _have(self, size: float) -> None:
        self.has = max(self.has, size)
        self.first = self.world.book.now if self.first is None else self.first
        if self.has >= self.world.size:
            self.is_done = True

    def _fetch(self) -> None:
        """From upstream, what is not in the bucket; what is, first."""
        reach = self.pieces.reach(int(self.has))
        if reach > self.has:
            self._read()
            return
        if self._fetching is None and not self.is_dead:
            self._fetching = (self.world.book.now, self.has)
            self.world.ask("tell the size")
            self.turn.begun(self.world.book.now)
            self.world.notify(str(self.blob))
            self._publish()

    def _note_fetched(self) -> None:
        if self._fetching is None:
            return
        since, before = self._fetching
        has = min(float(self.world.size), before + _LINE * (self.world.book.now - since))
        self.world.upstream += max(0.0, has - self.has)
        self._have(has)

    def _publish(self) -> None:
        if self.is_dead or self._is_putting or not self.turn.leads:
            return
        self._note_fetched()
        world = self.world
        span = self.pieces.next_span([(0, int(self.has))], world.size, self.vouched)
        if span is None:
            if self.pieces.reach(0) == world.size:
                self._prove()
            else:
                world.after(2**18 / _LINE, self._publish)
            return
        self._is_putting = True
        piece = Piece(*span, f"{self.turn.epoch}-{self.name}/{span[0]}")
        world.after(
            _FIRST_BYTE + (span[1] - span[0]) / _CARD + _TRIP, lambda: self._recorded(piece)
        )

    def _recorded(self, piece: Piece) -> None:
        self._is_putting = False
        if self.is_dead:
            return
        world = self.world
        world.ask("record")
        assert self.blob is not None
        assert self.turn.epoch is not None
        if not world.book.record(self.blob, self.turn.epoch, piece):
            self.turn.lost(world.book.now)
            return
        world.put.append(piece)
        self.pieces.add(piece)
        self.vouched.add(piece.key)
        self.turn.moved(world.book.now)
        world.notify(tell(self.blob, piece))
        self._publish()

    def _prove(self) -> None:
        self.world.ask("prove")
        assert self.blob is not None
        assert self.turn.epoch is not None
        if self.world.book.prove(self.blob, self.turn.epoch, self.world.size, self.vouched):
            self.turn.end()
            self.world.notify(str(self.blob))

    def die(self) -> None:
        """As by kill -9, if it is the one that fetches."""
        if self.turn.leads:
            self._note_fetched()
            self.is_dead = True


def simulate(mirrors: int, size: int, *, killed_after: float | None, seed: int) -> World:
    """Have all of them want it; whoever leads then is killed after so many seconds."""
    world = World(size, Random(seed))  # noqa: S311 - a simulation's dice
    for number in range(mirrors):
        mirror = Mirror(world, f"mirror-{number}")
        world.mirrors.append(mirror)
        world.after(world.dice.random() * _ARRIVE_WITHIN, mirror.begin)

    def kill() -> None:
        for mirror in world.mirrors:
            mirror.die()

    if killed_after is not None:
        world.after(killed_after, kill)
    world.run()
    return world


def main(
    mirrors: Annotated[int, typer.Option(help="How many.")] = 1000,
    size: Annotated[int, typer.Option(help="Of the blob, in MiB.")] = 1024,
    seed: int = 1,
) -> None:
    """Print what it would cost to have many mirrors fetch one blob. Nothing is asked of anybody."""
    print(f"A simulation: {mirrors} mirrors, one cold blob of {size} MiB, seed {seed}.")
    for title, killed in (("no fault", None), ("who fetches is killed after 4 s", 4.0)):
        world = simulate(mirrors, size * MIB, killed_after=killed, seed=seed)
        seconds, asked = world.book.now, sum(world.statements.values())
        kinds = ", ".join(f"{what} {times}" for what, times in world.statements.most_common())
        print(
            f"{title}: upstream {world.upstream / world.size:.3f} x, all are done after"
            f" {seconds:.1f} s; {len(world.put)} pieces; {asked} statements ({kinds}),"
            f" {asked / seconds:.0f} a second, {max(world.seconds.values())} in the busiest;"
            f" {world.notified / seconds:.0f} notifications a second"
        )


if __name__ == "__main__":
    typer.run(main)
