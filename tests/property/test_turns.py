"""Turns: whoever stops, comes back late, or cannot ask, no two mirrors ever have the same turn.

Mirrors believe what `Turn` lets them believe; what is true is in a book with a clock of its own. A
blob is a list of numbered pieces here; a mirror that was handed wrong ones would never prove them.
"""

import string

from hypothesis import assume, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mirror.oci.errors import StoreError
from mirror.shared.pieces import Piece
from mirror.shared.turns import Act, State, Turn
from tests.support.memory_ledger import Book, Row

LEASE, PATIENCE, PAUSE = 15.0, 40.0, 1.0
UPSTREAM, DIGEST = "docker.io", "sha256:d"
SIZE = 4  # pieces, of a byte each
MIRRORS = 3
NUMBERS = st.integers(0, MIRRORS - 1)


class Mirror:
    """Does what its turn says, as `mirror.shared.part` does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began: int | None = None
        self.turn = Turn(LEASE, PATIENCE, PAUSE)
        self.blob: int | None = None
        self.has = set[int]()  # bytes on its disk
        self.vouched = set[str]()
        self.fetched = 0
        self.was_late = False  # it was stopped for longer than its lease

    def act(self, book: Book, now: float) -> None:
        act, delay = self.turn.next(now)
        if act is Act.REST or delay > 0:
            return
        try:
            match act:
                case Act.CLAIM:
                    self._claim(book, now)
                case Act.RENEW:
                    self.renew(book, now)
                case _:
                    self._look(book, now)
        except StoreError:
            self.turn.unreachable(now)

    def _claim(self, book: Book, now: float) -> None:
        if book.is_down:
            raise StoreError("down")
        if self.began is None:
            self.began = book.begin()
        row = book.rows.get((UPSTREAM, DIGEST))
        if row is not None and self._note(book, row, now):
            return
        grace = LEASE if book.back_at is not None and now - book.back_at < 2 * LEASE else 0.0
        got = book.claim(UPSTREAM, DIGEST, self.name, self.turn.term, grace=grace, began=self.began)
        if got is None:
            self.turn.was_taken(now)
        else:
            self.blob = got.blob
            self.turn.won(got.epoch, now)

    def renew(self, book: Book, now: float) -> None:
        assert self.blob is not None
        assert self.turn.epoch is not None
        row = book.of(self.blob, self.turn.epoch)
        if row is None:
            self.turn.lost(now)
        else:
            row.until = book.now + self.turn.term
            self.turn.renewed(now)

    def _look(self, book: Book, now: float) -> None:
        assert self.blob is not None
        row = book.of(self.blob)
        if row is None:
            self.turn.gone(now)
        elif not self._note(book, row, now):
            self.turn.is_free(now)

    def _note(self, book: Book, row: Row, now: float) -> bool:
        self.blob = row.blob
        is_free = book.is_free(row, self.name, began=self.began or 0)
        if row.is_proved:
            self.turn.is_proved(now)
        elif not is_free:
            self.turn.is_anothers(now)
        return row.is_proved or not is_free


class TurnMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.book = Book(patience=PATIENCE)
        self.mirrors = [Mirror(string.ascii_lowercase[number]) for number in range(MIRRORS)]
        self.epochs = set[int]()

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 6.0, 16.0]), stopped=st.sets(NUMBERS))
    def time_passes(self, seconds: float, stopped: set[int]) -> None:
        """Those that are not stopped do what is due, every half second."""
        for _ in range(int(seconds * 2)):
            self.book.now += 0.5
            for number, mirror in enumerate(self.mirrors):
                if number not in stopped:
                    mirror.act(self.book, self.book.now)

    @rule()
    def the_database_goes_or_comes(self) -> None:
        self.book.is_down = not self.book.is_down
        if not self.book.is_down:
            self.book.back_at = self.book.now

    @rule(number=NUMBERS)
    def a_mirror_is_started_anew(self, number: int) -> None:
        before = self.mirrors[number]
        self.mirrors[number] = mirror = Mirror(before.name)
        mirror.has = before.has

    @rule(number=NUMBERS)
    def one_fetches_a_byte_and_puts_it(self, number: int) -> None:
        """As a fill does: it asks before, where its lease is over."""
        mirror, now = self.mirrors[number], self.book.now
        turn = mirror.turn
        assume(turn.may_fetch)
        if turn.is_overdue(now):
            try:
                mirror.renew(self.book, now)
            except StoreError:
                turn.unreachable(now)
        if not turn.may_fetch:
            return
        turn.begun(now)
        lacking = [at for at in range(SIZE) if at not in mirror.has]
        if lacking:
            mirror.has.add(lacking[0])
            mirror.fetched += 1
        if turn.leads:
            self._put(mirror, now)

    def _put(self, mirror: Mirror, now: float) -> None:
        assert mirror.blob is not None
        assert mirror.turn.epoch is not None
        epoch = mirror.turn.epoch
        try:
            row = self.book.of(mirror.blob)
            for at in sorted(mirror.has):
                there = None if row is None else row.pieces.get(at)
                if there is not None and there.key in mirror.vouched:
                    continue
                piece = Piece(at, at + 1, f"{epoch}-{mirror.name}/{at}")
                is_valid = row is not None and row.epoch == epoch and not row.is_proved
                assert self.book.record(mirror.blob, epoch, piece) == is_valid
                if not is_valid:
                    mirror.turn.lost(now)
                    return
                mirror.vouched.add(piece.key)
                mirror.turn.moved(now)
                return
            if len(mirror.has) == SIZE and self.book.prove(
                mirror.blob, epoch, SIZE, mirror.vouched
            ):
                mirror.turn.end()
                self.mirrors[self.mirrors.index(mirror)] = Mirror(mirror.name)
        except StoreError:
            return

    @rule(number=NUMBERS)
    def one_reads_what_another_has_put(self, number: int) -> None:
        mirror = self.mirrors[number]
        assume(mirror.turn.may_read and not self.book.is_down)
        row = self.book.rows[UPSTREAM, DIGEST]
        for at, piece in row.pieces.items():
            if at not in mirror.has:
                mirror.has.add(at)
                mirror.vouched.add(piece.key)
                mirror.turn.moved(self.book.now)

    @rule(number=NUMBERS)
    def one_is_told_that_something_has_come(self, number: int) -> None:
        """It need not be so, nor all of it."""
        self.mirrors[number].turn.told(self.book.now)

    @rule(number=NUMBERS)
    def the_bucket_takes_nothing_from_one(self, number: int) -> None:
        mirror = self.mirrors[number]
        assume(mirror.turn.leads)
        mirror.turn.refused(self.book.now)

    @rule(number=NUMBERS)
    def one_waits_for_what_does_not_come(self, number: int) -> None:
        self.mirrors[number].turn.waited(self.book.now)

    @invariant()
    def nobody_has_a_turn_that_is_anothers(self) -> None:
        """Whoever believes to lead, is in time and gets somewhere, does."""
        row = self.book.rows.get((UPSTREAM, DIGEST))
        leaders = [
            mirror
            for mirror in self.mirrors
            if mirror.turn.leads
            and not mirror.turn.is_overdue(self.book.now)
            and not mirror.turn.has_stalled(self.book.now)
        ]
        assert len(leaders) <= 1
        if leaders and row is not None and not row.is_proved:
            assert leaders[0].turn.epoch == row.epoch

    @invariant()
    def all_that_is_proved_was_vouched_for_by_one(self) -> None:
        row = self.book.rows.get((UPSTREAM, DIGEST))
        if row is not None and row.is_proved:
            assert sorted(row.pieces) == list(range(SIZE))

    def teardown(self) -> None:
        """Whatever has happened: when all is well again, each of them gets somewhere."""
        self.book.is_down = False
        self.book.back_at = self.book.now
        for _ in range(400):
            self.book.now += 0.5
            for number, mirror in enumerate(self.mirrors):
                mirror.act(self.book, self.book.now)
                if mirror.turn.may_read and not self.book.is_down:
                    self._read(mirror)
                if mirror.turn.may_fetch:
                    self._fetch(number)
                    self._publish_later(number)
                elif mirror.turn.state is State.FOLLOWING:
                    mirror.turn.waited(self.book.now)
        for mirror in self.mirrors:
            assert len(mirror.has) == SIZE
        assert self.book.rows[UPSTREAM, DIGEST].is_proved

    def _read(self, mirror: Mirror) -> None:
        for at, piece in self.book.rows[UPSTREAM, DIGEST].pieces.items():
            if at not in mirror.has:
                mirror.has.add(at)
                mirror.vouched.add(piece.key)
                mirror.turn.moved(self.book.now)

    def _publish_later(self, number: int) -> None:
        """What one has fetched for itself it publishes when it can (`mirror.shared.sharing`)."""
        mirror = self.mirrors[number]
        if mirror.turn.state is State.ALONE and len(mirror.has) == SIZE:
            self.mirrors[number] = another = Mirror(mirror.name)
            another.has = mirror.has

    def _fetch(self, number: int) -> None:
        mirror, now = self.mirrors[number], self.book.now
        if mirror.turn.is_overdue(now):
            mirror.renew(self.book, now)
        if not mirror.turn.may_fetch:
            return
        mirror.turn.begun(now)
        lacking = [at for at in range(SIZE) if at not in mirror.has]
        mirror.has.update(lacking[:1])
        if mirror.turn.leads:
            self._put(mirror, now)


TestTurns = TurnMachine.TestCase
TestTurns.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
