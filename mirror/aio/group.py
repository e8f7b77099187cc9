"""Tasks that are one piece of work: the first that fails ends the others, and is what went wrong.

As `asyncio.TaskGroup`, which on Python 3.11 forgets that its owner was cancelled where a task fails
at about the same time, and counts its own cancelling as if it were another's: its owner cannot even
tell. Here, being cancelled is always the greater news.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Group:
    """Starts tasks, which may start more of them; whoever has made it must `wait`."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Group: {len(self._running)} running>"

    def create_task(self, work: Coroutine[Any, Any, None], /, *, name: str = "task") -> None:
        """Start one more; where all is over, it is cancelled before it begins."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        if self._is_over:
            task.cancel()

    async def wait(self) -> None:
        """Return when all have ended, even when cancelled meanwhile; be cancelled then.

        Raises:
            BaseException: What the first that failed has raised.
        """
        cancelled: asyncio.CancelledError | None = None
        while self._running:
            try:
                await asyncio.wait(self._running)
            except asyncio.CancelledError as error:
                cancelled = error
                self._cancel()
        failure, self._error = self._error, None
        if cancelled is not None:
            raise cancelled
        if failure is not None:
            raise failure

    def _cancel(self) -> None:
        self._is_over = True
        for task in self._running:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._is_over:
            self._error = error
            self._cancel()
