"""Bytes that were not what their digest says: noted where that is found, told elsewhere."""

from collections import deque
from dataclasses import dataclass

_MOST = 64  # that nobody has taken yet; whoever lies that often has been told of


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What somebody has sent under a digest was something else; `senders` are endpoints."""

    upstream: str
    digest: str
    senders: tuple[str, ...]


class Mismatches:
    """Those since somebody has last taken them; noting one costs nothing worth a word."""

    def __init__(self) -> None:
        self._noted: deque[Mismatch] = deque(maxlen=_MOST)

    def note(self, mismatch: Mismatch) -> None:
        """It was found, and nothing of it kept."""
        self._noted.append(mismatch)

    def take(self) -> list[Mismatch]:
        """What has been noted; noting begins anew."""
        taken = list(self._noted)
        self._noted.clear()
        return taken
