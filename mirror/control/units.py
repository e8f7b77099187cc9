"""Amounts as people read them: rounded, in units that fit."""

from datetime import UTC, datetime

from mirror.config.units import rounded_size

size = rounded_size


def duration(seconds: float) -> str:
    """Seconds, such as "3 d 2 h" or "1 min 40 s"."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def brief(seconds: float) -> str:
    """A short time, such as "85 ms" or "1.2 s"."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def date(seconds: float) -> str:
    """Seconds since the epoch, such as "2026-11-26 20:10", where this mirror is."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def printable(text: str) -> str:
    """What somebody else has written, with signs that are none made visible.

    An image's files may be called anything: an escape sequence would be obeyed by a terminal, and
    a mark that turns the order of writing would have a browser show another name.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape", "backslashreplace").decode("ascii")
