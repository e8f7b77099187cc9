"""How long to wait before trying again. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential and jittered; in seconds."""

    first: float = 1.0
    most: float = 30.0

    def delay(self, failures: int, *, roll: float) -> float:
        """How long to wait after that many failures in a row; `roll` is random in [0, 1)."""
        full = min(self.most, self.first * 2.0 ** min(failures - 1, 30))
        return full * (0.5 + roll / 2)
