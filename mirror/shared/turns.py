"""Whose turn it is to fetch a blob from upstream, as one mirror sees it for one of its fills. Pure.

    state       means                                          next
    asking      this mirror does not know                      leading, following, reading, alone
    leading     it has the turn: fetches, and puts pieces      asking (lost), alone, over
    following   another has: wait for its pieces               asking (lapsed), reading, alone
    reading     all pieces are there, and are proved           asking (they went), alone
    alone       the others cannot be asked, or the bucket:     over
                this mirror fetches for itself
    over        the fill has ended                             -

What is true stands in the database (`ledger.py`), by its clock: a turn is a lease, with an epoch
that fences whatever is recorded. A mirror only believes. It never has to be right: what it hands
out it has hashed, and what it records without having the turn touches nothing.

    what happens to who leads           it does
    a third of the lease is over        renews
    the lease is over (it was stopped)  asks before it takes more from upstream
    a renewal touches no row            follows who has the turn now
    the database cannot be asked        goes on, and records later
    the bucket takes nothing            gives the turn up, and goes on alone

    what happens to who follows         it does
    it is told that something is new    looks
    it is told what is new              looks later
    the turn is free, or has lapsed     claims it
    the database cannot be asked        reads the pieces it knows of; after a lease goes on alone
    nothing comes for `patience`        asks anew: by then the turn is anybody's
"""

from dataclasses import dataclass, field
from enum import Enum

SHORTEST = 3.0  # seconds; the lease until a first body has come: clients wait for headers, and do
# not wait long
_RENEWALS = 3  # in one lease
_MOMENT = 1.0  # seconds


class State(Enum):
    """See the table at the top of this module."""

    ASKING = "asking"
    LEADING = "leading"
    FOLLOWING = "following"
    READING = "reading"
    ALONE = "alone"
    OVER = "over"


_NEXT = {
    State.ASKING: {State.LEADING, State.FOLLOWING, State.READING, State.ALONE, State.OVER},
    State.LEADING: {State.ASKING, State.ALONE, State.OVER},
    State.FOLLOWING: {State.ASKING, State.READING, State.ALONE, State.OVER},
    State.READING: {State.ASKING, State.ALONE, State.OVER},
    State.ALONE: {State.OVER},
    State.OVER: set[State](),
}


class Act(Enum):
    """What is to be done next."""

    CLAIM = "find out whose turn it is, and take it if it is nobody's"
    RENEW = "renew the lease"
    LOOK = "see what has come"
    REST = "nothing, until something happens"


@dataclass(slots=True)
class Turn:
    """What one mirror believes. Times are seconds of its monotonic clock.

    `lease` in seconds; `patience`: how long nothing may come before the turn is anybody's; `pause`:
    between two looks at what has come.
    """

    lease: float
    patience: float
    pause: float
    state: State = State.ASKING
    epoch: int | None = None  # of the turn that it has, or had
    _has_begun: bool = False
    _renewed_at: float = 0.0
    _failed_at: float = 0.0  # when the database could last not be asked
    _next_at: float = 0.0  # when to renew, to look or to ask again
    _news_at: float = 0.0  # when anything last came, or went
    _soon: float = 0.0  # seconds until the next look
    _failing_since: float | None = None  # the database cannot be asked
    _refusing_since: float | None = field(default=None)  # the bucket takes nothing

    @property
    def term(self) -> float:
        """Seconds to lease the turn for, now."""
        return self.lease if self._has_begun else min(self.lease, SHORTEST)

    @property
    def leads(self) -> bool:
        """Whether this mirror has the turn, as far as it knows."""
        return self.state is State.LEADING

    @property
    def may_fetch(self) -> bool:
        """Whether this mirror is to ask upstream."""
        return self.state in {State.LEADING, State.ALONE}

    @property
    def may_read(self) -> bool:
        """Whether there are pieces to be read, or waited for."""
        return self.state in {State.FOLLOWING, State.READING}

    def is_overdue(self, now: float) -> bool:
        """Whether the turn may be another's by now: to be asked before more is fetched."""
        asked_at = max(self._renewed_at, self._failed_at)  # once in a lease, if nobody answers
        return self.leads and now >= asked_at + self.term

    def next(self, now: float) -> tuple[Act, float]:
        """What to do, and in how many seconds."""
        match self.state:
            case State.ASKING:
                return Act.CLAIM, max(0.0, self._next_at - now)
            case State.LEADING:
                return Act.RENEW, max(0.0, self._next_at - now)
            case State.FOLLOWING:
                return Act.LOOK, max(0.0, self._next_at - now)
            case _:
                return Act.REST, 0.0

    # What the database says

    def won(self, epoch: int, now: float) -> None:
        """The claim has been granted, asked for at `now` or later: so the lease is no shorter."""
        self._move(State.LEADING)
        self.epoch = epoch
        self._failing_since = self._refusing_since = None
        self._news_at = now
        self._note_renewed(now)

    def renewed(self, now: float) -> None:
        """The lease has been renewed, asked for at `now` or later."""
        self._failing_since = None
        if self.leads:
            self._note_renewed(now)

    def lost(self, now: float) -> None:
        """The turn is another's: what was to be renewed or recorded touched no row."""
        if self.leads:
            self._ask_again(now)

    def is_anothers(self, now: float) -> None:
        """Another has the turn."""
        self._failing_since = None
        if self.state is State.ASKING:
            self._move(State.FOLLOWING)
            self._news_at = now
            self._soon = self.pause / 32  # what came meanwhile was told to nobody
        self._soon = min(2 * self._soon, self.pause)
        self._next_at = now + self._soon

    def is_free(self, now: float) -> None:
        """Nobody has the turn any more; who has followed claims it."""
        self._failing_since = None
        if self.state is State.FOLLOWING:
            self._ask_again(now)

    def was_taken(self, now: float) -> None:
        """Another was first to claim: ask again, in a moment."""
        if self.state is State.ASKING:
            self._next_at = now + self.pause

    def is_proved(self, now: float) -> None:
        """All pieces are there."""
        self._failing_since = None
        if self.state is State.ASKING or self.state is State.FOLLOWING:
            self._move(State.READING)
            self._news_at = now

    def unreachable(self, now: float, *, is_down: bool = True) -> None:
        """The database could not be asked; `is_down`: nor will it be the next moment."""
        self._failing_since = now if self._failing_since is None else self._failing_since
        self._failed_at = now
        self._next_at = now + self.pause
        patience = self.lease
        if self.state is State.ASKING and not self._has_begun:
            patience = 0.0 if is_down else _MOMENT  # clients wait for headers, and not for long
        is_patient = now - self._failing_since < patience
        if self.state in {State.ASKING, State.FOLLOWING} and not is_patient:
            self._move(State.ALONE)

    # What comes and goes

    def begun(self, now: float) -> None:
        """Bytes have begun to come, wherever from: clients can be told the size now."""
        if not self._has_begun:
            self._has_begun = True
            if self.leads:
                self._next_at = now  # for longer now
        self._news_at = now

    def heard(self, now: float) -> None:
        """Something has changed: whoever follows looks now."""
        if self.state is State.FOLLOWING:
            self._next_at = now

    def told(self, now: float) -> None:
        """Who follows has been told all that is new; a look that is due stays so."""
        self._news_at = now
        self._soon = self.pause
        if self.state is State.FOLLOWING and self._next_at > now:
            self._next_at = now + self.pause

    def moved(self, now: float) -> None:
        """Who follows has been brought something; who leads has put something."""
        self._news_at = now
        self._refusing_since = None

    def waited(self, now: float) -> None:
        """Who follows waits for what has not come."""
        if self.state is State.FOLLOWING and now - self._news_at >= self.patience:
            self._ask_again(now)

    def has_stalled(self, now: float) -> bool:
        """Whether nothing has moved for so long that the turn is anybody's."""
        return now - self._news_at >= self.patience

    def must_hurry(self, now: float) -> bool:
        """Who leads has put nothing for so long that others will soon wait no longer."""
        return now - self._news_at >= self.patience / 3

    def refused(self, now: float) -> bool:
        """The bucket does not take a piece; whether the turn is given up, to be released."""
        self._refusing_since = now if self._refusing_since is None else self._refusing_since
        if self.leads and now - self._refusing_since >= self.lease:
            self._move(State.ALONE)
            return True
        return False

    def unreadable(self) -> None:
        """The pieces cannot be read here, whatever the others can."""
        if self.state in {State.FOLLOWING, State.READING}:
            self._move(State.ALONE)

    def gone(self, now: float) -> None:
        """The copy is not there any more, or is another."""
        if self.state in {State.FOLLOWING, State.READING}:
            self._ask_again(now)

    def give_up(self) -> None:
        """What this mirror has is not what the others should have."""
        if self.state not in {State.ALONE, State.OVER}:
            self._move(State.ALONE)

    def end(self) -> None:
        """The fill has ended."""
        if self.state is not State.OVER:
            self._move(State.OVER)

    def _note_renewed(self, now: float) -> None:
        self._renewed_at = now
        self._next_at = now + self.term / _RENEWALS

    def _ask_again(self, now: float) -> None:
        self._move(State.ASKING)
        self._next_at = now

    def _move(self, state: State) -> None:
        assert state in _NEXT[self.state], f"{self.state} to {state}"  # noqa: S101 - the table
        self.state = state
