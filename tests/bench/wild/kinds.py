"""What others met, one scene each: it fails where a client is worse off than without a mirror."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.bench.wild.seat import Scene

Play = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing that real registries, networks and clients do."""

    name: str
    title: str  # what happens, and what a client going direct gets
    play: Play  # raises AssertionError where the client gets something else


KINDS: list[Kind] = []


def kind(title: str) -> Callable[[Play], Play]:
    """Put a scene into the table, under the name of its function."""

    def add(play: Play) -> Play:
        KINDS.append(Kind(play.__name__.replace("_", "-"), title, play))
        return play

    return add
