"""Which bytes an upload shares with others: what begins alike is one, up to where it differs.

A client that starts over says nothing of a digest, and nor does a second one that pushes the same.
So what comes is compared with what is spooled of the same repository already :

    the piece                                    then
    is all there, in some of them                follow those: nothing is written, nothing sent
    goes on where the longest of them ends       extend that one
    differs from all of them                     fork: what was alike is copied, the rest is its own

All that an upload follows agree up to where it is, so that any of them stands for it. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alike:
    """How a piece compares with one spool, from the same position on.

    So many of its bytes are there, and `is_equal` to them. `is_closed`: no byte can follow.
    """

    there: int
    is_equal: bool
    is_closed: bool = False


@dataclass(frozen=True, slots=True)
class Follow:
    """These have all of it (by their place in what was compared)."""

    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Extend:
    """This one has the first `there` bytes of it, and takes the rest."""

    chosen: int
    there: int


@dataclass(frozen=True, slots=True)
class Fork:
    """None of them is like it."""


def decide(length: int, compared: Sequence[Alike]) -> Follow | Extend | Fork:
    """What becomes of a piece of `length` bytes."""
    whole = tuple(
        place for place, one in enumerate(compared) if one.is_equal and one.there >= length
    )
    if whole:
        return Follow(whole)
    open_ones = [
        (one.there, -place)
        for place, one in enumerate(compared)
        if one.is_equal and not one.is_closed
    ]
    if not open_ones:
        return Fork()
    there, place = max(open_ones)
    return Extend(-place, there)
