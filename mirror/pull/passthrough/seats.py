"""Who reads along in a transfer, and for whom the others wait. Pure.

One who is far behind makes the others wait, for a second and a tenth of the time for which it has
read; all of them together, for three seconds and half of the transfer's time. Then they are left
behind.
"""

from dataclasses import dataclass

from mirror.pull.passthrough.window import MOST, Window

_BEHIND = MOST - 2 * 2**20  # bytes; the next chunk might leave such a reader behind
_PATIENCE, _SHARE = 1.0, 0.1  # seconds, and of its own time, for one
_LEAST = 0.01  # seconds; for less, nobody is made to wait
_MOST_PATIENCE, _MOST_SHARE = 3.0, 0.5  # ... and of the transfer's time, for all


@dataclass(eq=False, slots=True)
class Seat:
    """A reader's place: what it has had ends at `position`."""

    position: int
    since: float
    waits: bool = False
    lost: float = 0.0  # seconds for which others have waited for it

    def patience(self, now: float) -> float:
        """Seconds for which others may still be made to wait."""
        return _PATIENCE + _SHARE * (now - self.since) - self.lost


class Seats:
    """The readers of one transfer, which began at this time; in seconds."""

    def __init__(self, now: float) -> None:
        self._began_at = now
        self._lost = 0.0  # seconds for which some have waited for others
        self._seats: set[Seat] = set()

    def __bool__(self) -> bool:
        return bool(self._seats)

    def __contains__(self, seat: Seat) -> bool:
        return seat in self._seats

    @property
    def is_waiting(self) -> bool:
        """Whether one of them waits for bytes."""
        return any(seat.waits for seat in self._seats)

    def first_position(self, *, default: int) -> int:
        """Where the one who is most behind is."""
        return min((seat.position for seat in self._seats), default=default)

    def serve(self, position: int) -> None:
        """Who is before that waits no longer: what is there only has to be taken."""
        for seat in self._seats:
            seat.waits &= seat.position >= position

    def sit(self, position: int, *, now: float) -> Seat:
        """One more."""
        seat = Seat(position, now)
        self._seats.add(seat)
        return seat

    def leave(self, seat: Seat) -> None:
        """One less."""
        self._seats.remove(seat)

    def find_behind(self, window: Window, *, now: float) -> tuple[float, list[Seat]]:
        """For how many seconds, and for whom, the others are made to wait."""
        left = _MOST_PATIENCE + _MOST_SHARE * (now - self._began_at) - self._lost
        behind = [
            seat for seat in self._seats
            if window.start <= seat.position <= window.position - _BEHIND
            and min(seat.patience(now), left) > _LEAST
        ]  # fmt: skip
        return min([left, *(seat.patience(now) for seat in behind)]), behind

    def note_lost(self, seconds: float, behind: list[Seat]) -> None:
        """The others have waited for these."""
        self._lost += seconds
        for seat in behind:
            seat.lost += seconds
