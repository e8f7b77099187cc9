"""Endpoints over time, as a line of parts: up, down, paused, and not known. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from mirror.control.past import Outages
from mirror.history.ports import Down

WIDTH = 240.0  # of a line, in its own units
_LEAST = 1.0  # of a part that can still be seen


class Part(NamedTuple):
    """A part of the line, of a kind: "unknown", "down", "paused"; the rest of it is up."""

    x: float
    width: float
    kind: str
    began: float
    ended: float


class Line(NamedTuple):
    """An endpoint's; how often and for how many seconds it was down in that time."""

    parts: list[Part]
    times: int
    seconds: float


def draw(outages: Outages, upstream: str, endpoint: str, *, since: float, now: float) -> Line:
    """The line of one endpoint, from `since` to `now` (seconds since the epoch)."""
    running = sorted((it.began, it.ended) for it in outages.running)
    gaps = _between([(max(began, since), min(ended, now)) for began, ended in running], since, now)
    own = [it for it in outages.longest if (it.upstream, it.endpoint) == (upstream, endpoint)]
    clipped = [(it.state, max(it.began, since), min(it.ended, now)) for it in own]
    parts = [_part("unknown", began, ended, since, now) for began, ended in gaps]
    parts += [_part(kind, began, ended, since, now) for kind, began, ended in clipped]
    return Line(parts, *outages.down.get((upstream, endpoint), Down()))


def _between(
    there: Sequence[tuple[float, float]], since: float, now: float
) -> list[tuple[float, float]]:
    """What is left out by these, which are in order."""
    gaps, at = list[tuple[float, float]](), since
    for began, ended in there:
        if began > at:
            gaps.append((at, began))
        at = max(at, ended)
    # What goes on was last written down a moment ago.
    return gaps if there else [(since, now)]


def _part(kind: str, began: float, ended: float, since: float, now: float) -> Part:
    unit = WIDTH / (now - since)
    x = min((began - since) * unit, WIDTH - _LEAST)
    return Part(round(x, 2), round(max(_LEAST, (ended - began) * unit), 2), kind, began, ended)
