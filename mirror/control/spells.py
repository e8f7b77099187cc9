"""When endpoints were up, and when not: spells, made of what the overview tells once a second.

    running   the mirror itself was there to see
    down      an endpoint did not answer
    paused    an operator had it asked nothing

A spell goes on while the same is seen; now and then it is written how far, so that little is lost
with a mirror that is killed. What no spell says of a time in which the mirror ran, was up.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from mirror.control import models
from mirror.history.keeper import Keeper
from mirror.history.ports import Spell, State

_EVERY = 1.0  # seconds between looks
_WRITTEN_EVERY = {"running": 60.0, "down": 5.0, "paused": 5.0}  # seconds, while it goes on

_Key = tuple[str, str, State]


@dataclass(slots=True)
class Spells:
    """Watches, and keeps what it has seen. `clock` gives seconds since the epoch."""

    keeper: Keeper
    endpoints: Callable[[], Sequence[models.Endpoint]]
    clock: Callable[[], float]
    _going_on: dict[_Key, Spell] = field(default_factory=dict)
    _next_id: int = 0

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            if not self._next_id:  # with any other number it would write over what there is
                self._next_id = await self.keeper.find_next_spell() or 0
            if self._next_id:
                await self.keeper.record_spells(self.look())
            await asyncio.sleep(_EVERY)

    def look(self) -> list[Spell]:
        """What is to be written now."""
        now = self.clock()
        seen: dict[_Key, str | None] = {("", "", "running"): None}
        for one in self.endpoints():
            if one.paused_since is not None:
                seen[one.upstream, one.name, "paused"] = None
            elif not one.is_up:
                seen[one.upstream, one.name, "down"] = one.trouble
        over = [replace(self._going_on.pop(it), ended=now) for it in self._going_on.keys() - seen]
        begun = [key for key in seen if key not in self._going_on]
        for key in begun:
            self._going_on[key] = self._begin(key, seen[key], now)
        due = [key for key, it in self._going_on.items() if _is_due(it, now)]
        for key in due:
            self._going_on[key] = replace(self._going_on[key], ended=now)
        return [*over, *(self._going_on[key] for key in dict.fromkeys([*begun, *due]))]

    def _begin(self, key: _Key, why: str | None, now: float) -> Spell:
        upstream, endpoint, state = key
        self._next_id += 1
        return Spell(
            id=self._next_id - 1, upstream=upstream, endpoint=endpoint, state=state, began=now,
            ended=now, why=why,
        )  # fmt: skip


def _is_due(spell: Spell, now: float) -> bool:
    return abs(now - spell.ended) >= _WRITTEN_EVERY[spell.state]
