"""Looks at a running mirror, once or until the operator has seen enough."""

import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
from rich.console import Console
from rich.live import Live

from mirror.control.models import Status
from mirror.operate.asking import RunningMirror
from mirror.operate.status import show

_EVERY = 1.0  # seconds
_wall_clock = time.time  # noqa: TID251 - what a mirror says is laid beside this


def watch(
    mirror: RunningMirror,
    *,
    once: bool,
    as_json: bool,
    console: Console | None = None,
    clock: Callable[[], float] = _wall_clock,
) -> None:
    """Show the status; for ever on a terminal, unless `once`. Raises NoAnswer."""
    status = mirror.get("/status", Status)
    screen = Console() if console is None else console
    if as_json:
        document = msgspec.json.format(msgspec.json.encode(status), indent=2)
        screen.file.write(document.decode() + "\n")
        return
    if once or not screen.is_terminal:
        screen.print(show(status, clock()))
        return
    with suppress(KeyboardInterrupt), Live(show(status, clock()), console=screen) as live:
        while True:
            time.sleep(_EVERY)
            live.update(show(mirror.get("/status", Status), clock()))
