"""How long certificates are good for, and from when on they should have been renewed."""

from dataclasses import dataclass

_DAY = 86400.0
_SHORT = 30 * _DAY  # certificates of so short a life are renewed by machines, late
_LATE = 5  # a fifth of such a life is left when it should have been


@dataclass(frozen=True, slots=True)
class Life:
    """Of a certificate, in seconds since the epoch."""

    begins: float
    ends: float

    def is_nearly_over(self, now: float, *, days: int) -> bool:
        """Whether fewer than so many days are left of it; of a short one, a fifth."""
        whole = self.ends - self.begins
        return self.ends - now < (whole / _LATE if whole < _SHORT else days * _DAY)
