"""Calls between two processes: each side names what it serves, and calls what the other serves.

    call      one question, one answer
    open      an answer that holds something until the caller is done with it (a context manager)
    tell      no answer is expected

Whoever stops waiting says so, and what it asked for is cancelled or let go; what was asked by a
process that has died is, too.
"""

import asyncio
import errno
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mirror.aio.tasks import Tasks
from mirror.config import ConfigError
from mirror.front.wire.channel import Channel, Torn
from mirror.oci.errors import RegistryError, Unavailable
from mirror.telemetry.log import fields, request_id

_logger = logging.getLogger(__name__)

_ENDED = "the process that was asked has ended"
_FULL = "the mirror has too many files and connections open"
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}
_EXPECTED = (RegistryError, ConfigError)  # whoever asked knows what to make of them

Served = Mapping[str, Callable[..., Awaitable[object] | AbstractAsyncContextManager[object]]]


@dataclass(frozen=True, slots=True)
class _Call:
    number: int  # negative where nobody waits for an answer
    method: str
    arguments: tuple[object, ...]
    request_id: str  # of the client's request, for the log of whoever answers


@dataclass(frozen=True, slots=True)
class _Answer:
    number: int
    result: Any


@dataclass(frozen=True, slots=True)
class _Failure:
    number: int
    error: Exception


@dataclass(frozen=True, slots=True)
class _Leave:
    """The caller of this number waits no longer, or is done with what it has opened."""

    number: int


@dataclass(slots=True)
class _Work:
    """A call that is being answered here."""

    task: asyncio.Task[None] | None = None
    is_open: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def leave(self) -> None:
        self.left.set()
        if self.task is not None and not self.is_open:
            self.task.cancel()


class Peer:
    """The other side. Answers to it are worked out in `tasks`; `lost` is set once it has gone."""

    def __init__(self, connection: socket.socket, serves: Served, *, tasks: Tasks) -> None:
        self.lost = asyncio.Event()
        self._serves = serves
        self._tasks = tasks
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._working: dict[int, _Work] = {}
        self._channel = Channel(connection, receive=self._receive, lost=self.close)

    async def call(self, method: str, *arguments: object) -> Any:
        """What the other side's `method` returns.

        Raises:
            Unavailable: The other side has gone.
            Exception: What the method raises.
        """
        return await self._ask(next(self._numbers), method, arguments)

    @asynccontextmanager
    async def open(self, method: str, *arguments: object) -> AsyncIterator[Any]:
        """What the other side's `method` opens, held inside the block. Raises as `call`."""
        number = next(self._numbers)
        result = await self._ask(number, method, arguments)
        try:
            yield result
        finally:
            self._channel.send(_Leave(number))
            _close(result)

    @property
    def waiting(self) -> int:
        """How many messages the other side has been too slow for."""
        return self._channel.waiting

    def tell(self, method: str, *arguments: object) -> None:
        """Have the other side do something; nobody waits for it.

        Raises:
            OSError: There is no descriptor free to send what is open.
        """
        self._channel.send(_Call(-next(self._numbers), method, arguments, request_id.get()))

    def close(self) -> None:
        """Be done with the other side."""
        self._channel.close()
        self.lost.set()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable(_ENDED))
        for work in self._working.values():
            work.leave()

    async def _ask(self, number: int, method: str, arguments: tuple[object, ...]) -> Any:
        if self.lost.is_set():
            raise Unavailable(_ENDED)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._channel.send(_Call(number, method, arguments, request_id.get()))
            return await answer
        except asyncio.CancelledError:
            self._channel.send(_Leave(number))
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                _close(answer.result())
            raise
        finally:
            del self._waiting[number]

    def _receive(self, message: object) -> None:
        match message:
            case _Call():
                work = self._working[message.number] = _Work()
                work.task = self._tasks.create_task(self._work(message, work), name="answer")
                work.task.add_done_callback(lambda _: self._working.pop(message.number))
            case _Leave():
                if (left := self._working.get(message.number)) is not None:
                    left.leave()
            case _Answer() | _Failure():
                self._deliver(message)
            case Torn(_Call() as call):
                self._fail(call, Unavailable(_FULL))
            case Torn(_Answer(number=number)):
                self._channel.send(_Leave(number))
                self._deliver(_Failure(number, Unavailable(_FULL)))
            case Torn():
                self.close()  # nobody knows what it was, and so nobody what to wait for
            case _:
                raise AssertionError(f"not a message: {message!r}")

    def _deliver(self, message: _Answer | _Failure) -> None:
        answer = self._waiting.get(message.number)
        if answer is None or answer.done():  # nobody waits any more
            if isinstance(message, _Answer):
                _close(message.result)
        elif isinstance(message, _Answer):
            answer.set_result(message.result)
        else:
            answer.set_exception(message.error)

    async def _work(self, call: _Call, work: _Work) -> None:
        request_id.set(call.request_id)
        try:
            await self._answer(call, work)
        except asyncio.CancelledError:
            self._fail(call, Unavailable("the mirror is being stopped"))
            if not work.left.is_set():
                raise
        except Exception as error:
            if not isinstance(error, _EXPECTED):
                _logger.exception("%s failed", call.method, extra=fields())
            full = isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR
            self._fail(call, Unavailable(_FULL) if full else error)

    async def _answer(self, call: _Call, work: _Work) -> None:
        answering = self._serves[call.method](*call.arguments)
        if isinstance(answering, AbstractAsyncContextManager):
            async with answering as opened:
                work.is_open = True
                self._channel.send(_Answer(call.number, opened))
                await work.left.wait()
            return
        result = await answering
        if call.number > 0:
            self._channel.send(_Answer(call.number, result))

    def _fail(self, call: _Call, error: Exception) -> None:
        if call.number > 0:
            # What is not ours may not survive the journey.
            told = error if isinstance(error, _EXPECTED) else RuntimeError(str(error))
            self._channel.send(_Failure(call.number, told))


def _close(result: object) -> None:
    """Close what has come with an answer, if anything has."""
    if isinstance(result, Closable):
        result.close()


@runtime_checkable
class Closable(Protocol):
    """A result that holds what is open."""

    def close(self) -> None:
        """Close it."""
