"""How much is sent at once to a registry that forgets an upload whose line breaks. Pure.

    an upload begins             in one request, for as long as bytes come
    it was cut, and is known     the rest in one request, from where the registry says it is
    it was cut, and forgotten    from its first byte again, in chunks of half of what got through
    a chunk was cut              in chunks of half of what got through of that

Each chunk that the registry has said that it keeps stays, so that the next cut costs at most one.
They do not grow again while the line is as it was: to try would cost all of an upload each time.
What one upload has found out is good for the next ones to that registry, for an hour.
"""

from dataclasses import dataclass

_LEAST = 64 * 2**10  # bytes; below that, requests cost more than what they carry
_UNKNOWN = 2**20  # bytes, where it was forgotten before anything got through
_LASTING = 3600.0  # seconds


@dataclass(slots=True)
class Caution:
    """Of one upstream. `chunk` in bytes; 0: all in one request."""

    chunk: int = 0
    until: float = 0.0

    def at(self, now: float) -> int:
        """How much to send at once, in bytes; 0: all that comes."""
        if now >= self.until:
            self.chunk = 0
        return self.chunk

    def note_forgotten(self, got_through: int, *, now: float) -> None:
        """An upload was cut after so many bytes of a request, and the registry has it not."""
        half = max(_LEAST, got_through // 2 if got_through else _UNKNOWN)
        self.chunk = min(half, self.at(now) or half)
        self.until = now + _LASTING
