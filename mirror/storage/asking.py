"""What is asked of a disk that may never answer: once at a time, however many want to know.

A network file system that is away holds a thread for each call until it is back.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

_T = TypeVar("_T")

PATIENCE = 5.0
"""Seconds in which a disk has answered, also one that is busy."""


class DoesNotAnswer(Exception):
    """It has been asked, by whomever, and has not answered in time."""


class Asking(Generic[_T]):
    """`ask` begins it, in a thread. Whoever waits is told `patience` seconds later at most."""

    def __init__(self, ask: Callable[[], Future[_T]], *, patience: float = PATIENCE) -> None:
        self._ask = ask
        self._patience = patience
        self._asked: asyncio.Future[_T] | None = None
        self._until = 0.0

    async def answer(self) -> _T:
        """What the disk says now.

        Raises:
            DoesNotAnswer: It has not, `patience` seconds after it was asked.
            Exception: What `ask`, or what it has begun, raises.
        """
        loop = asyncio.get_running_loop()
        if self._asked is None or self._asked.done():
            self._asked = asyncio.wrap_future(self._ask())
            self._asked.add_done_callback(_see)
            self._until = loop.time() + self._patience
        asked = self._asked
        await asyncio.wait([asked], timeout=max(0.0, self._until - loop.time()))
        if not asked.done():
            raise DoesNotAnswer
        return asked.result()


def _see(asked: "asyncio.Future[_T]") -> None:
    """Nobody may be there any more to be told what went wrong."""
    if not asked.cancelled():
        asked.exception()
