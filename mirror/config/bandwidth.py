"""`max_bandwidth`: what may come in a second, always or by the time of day. Pure.

    max_bandwidth = "10 MB"
    max_bandwidth = [
      { from = "08:00", to = "20:00", limit = "2 MB" },
      { from = "20:00", to = "23:00", limit = "10 MB" },
    ]

By local time; `to` is not part of it, and may lie after midnight. At times that are not named there
is no limit.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from mirror.config.units import format_size, parse_size

_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_DAY = 24 * 60  # minutes
_KEYS = {"from", "to", "limit"}


@dataclass(frozen=True, slots=True)
class Span:
    """A part of each day, in minutes since midnight, and how many bytes a second may come in it."""

    start: int
    stop: int  # not part of it; before `start`: of the next day
    limit: int

    def __contains__(self, minute: int) -> bool:
        if self.start < self.stop:
            return self.start <= minute < self.stop
        return minute >= self.start or minute < self.stop


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What may come, in bytes a second: always the same, or by the time of day."""

    always: int | None = None
    spans: tuple[Span, ...] = ()

    def at(self, time: float) -> int | None:
        """What may come now; None: as much as does. `time` is in seconds since the epoch."""
        if not self.spans:
            return self.always
        now = datetime.fromtimestamp(time)  # noqa: DTZ006 - local time is what is meant
        minute = now.hour * 60 + now.minute
        return next((span.limit for span in self.spans if minute in span), None)


def parse_bandwidth(value: object) -> Bandwidth:
    """As it is written. Raises ValueError."""
    if isinstance(value, Bandwidth):
        return value
    if not isinstance(value, list | tuple):
        return Bandwidth(_limit(value))
    if not value:
        raise ValueError("is empty: name a time of the day and its limit, or leave it out")
    spans = tuple(_span(number, each) for number, each in enumerate(value))
    for minute in range(_DAY):
        both = [number for number, span in enumerate(spans) if minute in span]
        if len(both) > 1:
            raise ValueError(f"[{both[0]}] and [{both[1]}] both hold at {_written(minute)}")
    return Bandwidth(spans=spans)


def format_bandwidth(its: Bandwidth) -> str | list[dict[str, str]]:
    """As it is written."""
    if its.always is not None:
        return format_size(its.always)
    return [
        {"from": _written(it.start), "to": _written(it.stop), "limit": format_size(it.limit)}
        for it in its.spans
    ]


def _span(number: int, value: object) -> Span:
    if not isinstance(value, dict) or value.keys() != _KEYS:
        example = '{ from = "08:00", to = "20:00", limit = "2 MB" }'
        raise ValueError(f"[{number}] has from, to and limit, and nothing else: {example}")
    start, stop = _minute(value["from"]), _minute(value["to"])
    if start is None or stop is None or start == _DAY:
        raise ValueError(f'[{number}] has a time that is none; write it like "08:00"')
    if start == stop:
        raise ValueError(f'[{number}] is no time at all; all day is "00:00" to "24:00"')
    try:
        return Span(start, stop, _limit(value["limit"]))
    except ValueError as error:
        raise ValueError(f"[{number}].limit: {error}") from error


def _limit(value: object) -> int:
    limit = parse_size(value)
    if not limit:
        raise ValueError("must be more than zero")
    return limit


def _minute(value: object) -> int | None:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    return _DAY if match[1] is None else int(match[1]) * 60 + int(match[2])


def _written(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
