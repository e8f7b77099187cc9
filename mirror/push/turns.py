"""Who is at something alone: of two who push one tag at once, nobody here knows whose came last."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Turn:
    """Of one who is at it."""

    was_shared: bool = False

    def is_alone(self) -> bool:
        """Whether nobody else has been at it meanwhile."""
        return not self.was_shared


@dataclass(slots=True)
class Turns:
    """All who are at something."""

    _taken: dict[Hashable, list[Turn]] = field(default_factory=dict)

    @contextmanager
    def taking(self, what: Hashable) -> Iterator[Turn]:
        """Be at it inside the block."""
        turn, others = Turn(), self._taken.setdefault(what, [])
        others.append(turn)
        if len(others) > 1:
            for one in others:
                one.was_shared = True
        try:
            yield turn
        finally:
            others.remove(turn)
            if not others:
                del self._taken[what]
