"""How much is sent at once to a registry that forgets an upload whose line breaks. Pure.

    an upload begins             in one request, for as long as bytes come
    the line is slow             the rest in chunks that are through before it is likely to break
    it was cut, and is known     the rest in one request, from where the registry says it is
    it was cut, and forgotten    from its first byte again, in chunks of half of what got through
    a chunk was cut              in chunks of half of what got through of that
    the line is fast             in one request of the length that a client tells, where it does

Each chunk that the registry has said that it keeps stays, so that the next cut costs at most one.
They do not grow again while the line is as it was: to try would cost all of an upload each time.
What one upload has found out is good for the next ones to that registry, for an hour.
"""

from dataclasses import dataclass

_LEAST = 64 * 2**10  # bytes; below that, requests cost more than what they carry
_UNKNOWN = 2**20  # bytes, where it was forgotten before anything got through
_LASTING = 3600.0  # seconds

ENOUGH = 6 * 2**20
"""Bytes after which a request ends where the line is slow; some take no shorter parts."""

SLOW = 3.0
"""Seconds that so many bytes take, there."""

_FAST = 2**24  # bytes a second: what is lost with a client that leaves is soon sent again


@dataclass(slots=True)
class Caution:
    """Of one upstream. `chunk` in bytes; 0: all in one request, as where it `takes_no_parts`."""

    chunk: int = 0
    until: float = 0.0
    takes_no_parts: bool = False
    fast_until: float = 0.0

    def at(self, now: float) -> int:
        """How much to send at once, in bytes; 0: all that comes."""
        if now >= self.until:
            self.chunk, self.takes_no_parts = 0, False
        return self.chunk

    def is_enough(self, sent: int, seconds: float, *, now: float) -> bool:
        """Whether a request is to end whose last so many bytes have taken so long; then all do."""
        if sent < ENOUGH or seconds < SLOW or self.at(now) or self.takes_no_parts:
            return False
        self.chunk, self.until = ENOUGH, now + _LASTING
        return True

    def is_fast(self, now: float) -> bool:
        """Whether a request was that fast a while ago, and none has been slow since."""
        return now < self.fast_until

    def note_through(self, sent: int, seconds: float, *, now: float) -> None:
        """A registry has kept so many bytes of a request that has taken so long."""
        if sent >= ENOUGH:
            self.fast_until = now + _LASTING if sent >= _FAST * seconds else 0.0

    def note_no_parts(self, *, now: float) -> None:
        """A registry has refused what is not all of a blob."""
        self.chunk, self.until, self.takes_no_parts = 0, now + _LASTING, True

    def note_forgotten(self, got_through: int, *, now: float) -> None:
        """An upload was cut after so many bytes of a request, and the registry has it not."""
        if self.takes_no_parts and now < self.until:
            return
        half = max(_LEAST, got_through // 2 if got_through else _UNKNOWN)
        self.chunk = min(half, self.at(now) or half)
        self.until = now + _LASTING
