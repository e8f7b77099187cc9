"""Pauses endpoints of the mirror that runs: there is nothing to be asked where none does."""

from mirror.config import Config
from mirror.control import acts
from mirror.control.units import date
from mirror.operate.asking import RunningMirror
from mirror.operate.printing import say, say_json


async def pause(config: Config, upstream: str, endpoint: str | None, *, as_json: bool) -> bool:
    """Ask it nothing. Raises NoAnswer."""
    return _do(config, "pause", upstream, endpoint, as_json=as_json)


async def resume(config: Config, upstream: str, endpoint: str | None, *, as_json: bool) -> bool:
    """Ask it again. Raises NoAnswer."""
    return _do(config, "resume", upstream, endpoint, as_json=as_json)


def _do(config: Config, what: str, upstream: str, endpoint: str | None, *, as_json: bool) -> bool:
    wanted = acts.EndpointName(upstream=upstream, endpoint=endpoint)
    told = RunningMirror(config).post(f"/endpoints/{what}", wanted, acts.Paused)
    if as_json:
        say_json(told)
        return True
    if what == "resume":
        say(f"{upstream}{f' {endpoint}' if endpoint else ''}: asked again")
    for one in told.paused:
        say(f"{one.upstream} {one.endpoint}: paused since {date(one.since)}")
    return True
