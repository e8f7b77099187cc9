"""`mirror du --next`: what would go next to make room."""

from mirror.config import Config
from mirror.contents import models, questions
from mirror.control.reasons import LEAVING
from mirror.control.units import date, duration, size
from mirror.operate.looking import looking
from mirror.operate.printing import say, say_json, say_table

_DIGEST = 19  # characters: sha256: and twelve more


async def leaving(config: Config, *, as_json: bool) -> bool:
    """In the order in which it would."""
    async with looking(config) as looker:
        found = await looker.ask(questions.ListLeaving(), models.Leaving)
    if as_json:
        say_json(found)
        return True
    say_table(
        ("goes next", "size", "last used", "until", "why", "of"),
        [
            (
                one.digest[:_DIGEST], size(one.size), _time(one.last_used), _time(one.goes_at),
                ", ".join(LEAVING[it] for it in one.reasons), " ".join(one.names) or "-",
            )
            for one in found.leaving
        ],
        right="size",
    )  # fmt: skip
    if found.room is not None:
        fills = f", in {duration(found.room / found.rate)} as things go" if found.rate else ""
        say(f"{size(found.room)} can come before anything has to go{fills}")
    return True


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else date(seconds)
