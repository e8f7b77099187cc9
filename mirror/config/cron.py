"""When something is done by the clock on the wall: the five fields of crontab(5). Pure.

    minute  hour  day of the month  month  day of the week      by local time
    30      3     *                 *      mon-fri              at 3:30 on weekdays
    */15    8-18  1,15              *      *                    four times in each of those hours

Where both days are restricted, either will do, as crontab(5) has it. Where summer time sets the
clock forward, what is at a time that it skips is done by as much later; where it is set back, the
hour that comes twice counts once, the first time.
"""

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_Field = tuple[str, int, int, dict[str, int]]
_FIELDS: tuple[_Field, ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, start=1)}),
    ("day of the week", 0, 7, {name: number for number, name in enumerate(_DAYS)}),
)
_NAMED = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *",
}  # fmt: skip
_PART = re.compile(r"(?P<first>\*|[0-9a-z]+)(?:-(?P<last>[0-9a-z]+))?(?:/(?P<step>[0-9]{1,2}))?")
_SUNDAY = 7
_LOOKED_THROUGH = 366 * 9  # days: a 29th of February may be eight years off


@dataclass(frozen=True, slots=True)
class Times:
    """The times that five fields name; `text` is what was written."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0: Sunday
    either_day: bool

    def next_after(self, time: float) -> float:
        """The first of them after `time`; both in seconds since the epoch, by local time here."""
        start = datetime.fromtimestamp(time)  # noqa: DTZ006 - local time is what is meant
        for offset in range(_LOOKED_THROUGH):
            day = start.date() + timedelta(days=offset)
            if not self._is_day(day):
                continue
            for hour in sorted(self.hours):
                for minute in sorted(self.minutes):
                    # What is skipped counts by the time before, and of two the first (PEP 495).
                    at = datetime(day.year, day.month, day.day, hour, minute).timestamp()  # noqa: DTZ001
                    if at > time:
                        return at
        raise ValueError("names no day that there is")

    def _is_day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        is_day, is_weekday = day.day in self.days, day.isoweekday() % _SUNDAY in self.weekdays
        return is_day or is_weekday if self.either_day else is_day and is_weekday


def parse_times(text: object) -> Times:
    """Read five fields, or `@daily` and the like. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError('not five fields; write it like "30 3 * * *"')  # noqa: TRY004 - pydantic's
    written = _NAMED.get(text.strip().lower(), text).lower().split()
    if len(written) != len(_FIELDS):
        raise ValueError(
            f'has {len(written)} fields, and cron has five: write it like "30 3 * * *"'
            " (minute, hour, day of the month, month, day of the week)"
        )
    minutes, hours, days, months, weekdays = (
        _parse_field(field, *rules) for field, rules in zip(written, _FIELDS, strict=True)
    )
    times = Times(
        text, minutes, hours, days, months, frozenset(it % _SUNDAY for it in weekdays),
        either_day=not written[2].startswith("*") and not written[4].startswith("*"),
    )  # fmt: skip
    times.next_after(0.0)  # there is one
    return times


def _parse_field(
    field: str, what: str, first: int, last: int, names: dict[str, int]
) -> frozenset[int]:
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f'"{part}" is no {what}')

        def number(text: str) -> int:
            value = names.get(text, int(text) if text.isdecimal() else -1)
            if not first <= value <= last:
                raise ValueError(f'"{text}" is no {what}: {first} to {last}')
            return value

        step = int(match["step"] or 1)
        if match["first"] == "*":
            low, high = first, last
        else:
            low = number(match["first"])
            high = last if match["step"] else low
        if match["last"]:
            high = number(match["last"])
        if not step or high < low or (match["first"] == "*" and match["last"]):
            raise ValueError(f'"{part}" is no {what}')
        found.update(range(low, high + 1, step))
    return frozenset(found)
