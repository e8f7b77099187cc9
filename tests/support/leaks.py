"""What a test may not leave behind: tasks of the event loop, open descriptors."""

import asyncio
import gc
import re
from contextlib import suppress
from pathlib import Path

from tests.support.process import kept_descriptors, until

_INODE = re.compile(r"socket:\[[0-9]+\]")


class LeftBehind(AssertionError):
    """A test left something behind."""


class Remains:
    """Compares what there is now with what there was when this was made."""

    def __init__(self) -> None:
        self._tasks = _tasks()
        self._descriptors = descriptors()

    async def check(self, *, grace: float = 20) -> None:
        """Raise `LeftBehind` for what is new and does not go away within `grace` seconds."""
        with suppress(TimeoutError):
            await until(self._is_clean, within=grace)
            return
        tasks = [repr(task) for task in _tasks() - self._tasks]
        files = [f"descriptor {number}: {what}" for number, what in self._new_descriptors()]
        raise LeftBehind("\n".join(["a test left behind:", *tasks, *files]))

    async def _is_clean(self) -> bool:
        if not self._new_descriptors() and _tasks() <= self._tasks:
            return True
        gc.collect()  # what only a cycle keeps alive is no leak
        return False

    def _new_descriptors(self) -> set[tuple[str, str]]:
        return descriptors() - self._descriptors


def _tasks() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


def descriptors() -> set[tuple[str, str]]:
    """The number and the target of each descriptor that this process has open.

    Sockets are told apart by number only: uvloop makes its own pair anew for each run of the loop.
    What keeps a port for a server of the tests is meant to outlive them.
    """
    found, kept = set(), {str(number) for number in kept_descriptors()}
    for entry in Path("/proc/self/fd").iterdir():
        if entry.name in kept:
            continue
        with suppress(FileNotFoundError):  # the descriptor that lists them
            found.add((entry.name, _INODE.sub("socket", str(entry.readlink()))))
    return found
