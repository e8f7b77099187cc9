"""Calls between two processes: each side serves some methods, and asks for the other's.

    call      one question, one answer
    open      an answer that holds something until the caller is done with it (a context manager)
    tell      no answer is expected; what is told is done in the order in which it was told

Whoever stops waiting says so, and what it asked for is cancelled or let go; what was asked by a
process that has died is, too. A message that makes no sense ends the connection to whoever sent it.
"""

import asyncio
import errno
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from mirror.aio.slots import client
from mirror.aio.tasks import NoteFault, Tasks
from mirror.front.ports import FaultElsewhere, connection as asked_over
from mirror.front.settings import UnusableFile
from mirror.front.wire.channel import Channel, Packet
from mirror.front.wire.interface import (
    Codec,
    Method,
    Served,
    Violation,
    Way,
    close_all,
    interface_of,
)
from mirror.front.wire.messages import Answer, Call, Failure, Leave, error_of, failure
from mirror.oci.errors import RegistryError, Unavailable
from mirror.telemetry.log import request_id

_ENDED = "the process that was asked has ended"
_NO_DESCRIPTOR = "the mirror has too many files and connections open"
_NO_DESCRIPTOR_ERRORS = {errno.EMFILE, errno.ENFILE}
_EXPECTED = (RegistryError, UnusableFile)  # whoever asked knows what to make of them
_MOST_CALLS = 65536  # of one process, being answered at once

Message = Call | Answer | Leave | Failure


@dataclass(slots=True)
class _Work:
    """A call that is being answered here."""

    way: Way
    task: asyncio.Task[None] | None = None
    is_open: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def leave(self) -> None:
        self.left.set()
        if self.task is not None and not self.is_open:
            self.task.cancel()


@dataclass(slots=True)
class _Asked:
    """A call that an answer is waited for."""

    method: Method
    answer: asyncio.Future[Any]


class Peer:
    """The other side. Answers to it are worked out in `tasks`; `lost` is set once it has gone.

    What goes wrong unexpectedly while it is answered is noted as a fault in "answer". `client_at`:
    who is at the connection of this number, over which the other side is asked in turn. A side that
    `is_trusted` may answer one question with what is no answer (what a registry has said may be in
    it): that is this question's fault, and no reason to have nothing more to do with it.
    """

    def __init__(
        self,
        connection: socket.socket,
        served: Served,
        *,
        tasks: Tasks,
        note_fault: NoteFault,
        client_at: Callable[[int], str | None] = lambda _: None,
        is_trusted: bool = False,
    ) -> None:
        self.lost = asyncio.Event()
        self._served = served
        self._tasks = tasks
        self._note_fault = note_fault
        self._client_at = client_at
        self._is_trusted = is_trusted
        self._codec = Codec()
        self._codec.expect(Message)
        for method, _ in served.values():
            self._codec.expect(method.arguments)
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._working: dict[int, _Work] = {}
        self._channel = Channel(connection, receive=self._receive, lost=self.close)

    @property
    def waiting(self) -> int:
        """How many messages the other side has been too slow for."""
        return self._channel.waiting

    async def call(self, method: Method, /, *arguments: object, **named: object) -> Any:
        """What the other side's `method` returns.

        Raises:
            Unavailable: The other side has gone.
            RegistryError, UnusableFile, FaultElsewhere: What the method raises.
        """
        return await self._ask(next(self._numbers), method, method.arguments(*arguments, **named))

    @asynccontextmanager
    async def open(
        self, method: Method, /, *arguments: object, **named: object
    ) -> AsyncIterator[Any]:
        """What the other side's `method` opens, held inside the block. Raises as `call`."""
        number = next(self._numbers)
        result = await self._ask(number, method, method.arguments(*arguments, **named))
        try:
            yield result
        finally:
            self._send(Leave(number))
            _close(result)

    def tell(self, method: Method, /, *arguments: object, **named: object) -> None:
        """Have the other side do something; nobody waits for it.

        Raises:
            OSError: There is no descriptor free to send what is open.
        """
        self._send_call(0, method, method.arguments(*arguments, **named))

    def close(self) -> None:
        """Be done with the other side."""
        self._channel.close()
        self.lost.set()
        for asked in self._asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(Unavailable(_ENDED))
        for work in self._working.values():
            work.leave()

    # Asking

    async def _ask(self, number: int, method: Method, arguments: msgspec.Struct) -> Any:
        if self.lost.is_set():
            raise Unavailable(_ENDED)
        answer = asyncio.get_running_loop().create_future()
        self._asked[number] = _Asked(method, answer)
        try:
            self._send_call(number, method, arguments)
            return await answer
        except asyncio.CancelledError:
            self._send(Leave(number))
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                _close(answer.result())
            raise
        finally:
            del self._asked[number]

    def _send_call(self, number: int, method: Method, arguments: msgspec.Struct) -> None:
        data, opened = self._codec.encode(arguments)
        call = Call(number, method.name, msgspec.Raw(data), request_id.get(), asked_over.get())
        self._channel.send(self._codec.encode(call)[0], opened)

    def _send(self, message: Message) -> None:
        self._channel.send(self._codec.encode(message)[0])

    # Receiving

    def _receive(self, packet: Packet) -> None:
        try:
            message: Message = self._codec.decode(Message, packet.data, [])
        except Violation:
            close_all(packet.descriptors)
            raise
        match message:
            case Call():
                self._begin(message, packet)
            case Answer():
                self._deliver(message, packet)
            case Failure():
                close_all(packet.descriptors)
                self._set_error(message.number, error_of(message))
            case Leave():
                close_all(packet.descriptors)
                if (left := self._working.get(message.number)) is not None:
                    left.leave()

    def _begin(self, call: Call, packet: Packet) -> None:
        method, answering = self._served.get(call.method, (None, None))
        if method is None or answering is None or (method.way is Way.TELL) != (not call.number):
            close_all(packet.descriptors)
            raise Violation("it asks for what there is not")
        if packet.is_torn:
            self._fail(call, Unavailable(_NO_DESCRIPTOR))
            return
        arguments = self._codec.decode(method.arguments, call.arguments, packet.descriptors)
        answer = partial(answering, *msgspec.structs.astuple(arguments))
        if method.way is Way.TELL:
            self._do(answer, call)
            return
        if call.number in self._working or len(self._working) >= _MOST_CALLS:
            raise Violation("it asks twice by one number, or too much at once")
        work = self._working[call.number] = _Work(method.way)
        work.task = self._tasks.create_task(self._work(answer, call, work), name="answer")
        work.task.add_done_callback(lambda _: self._working.pop(call.number))

    def _deliver(self, answer: Answer, packet: Packet) -> None:
        asked = self._asked.get(answer.number)
        if asked is None or asked.answer.done():  # nobody waits any more
            close_all(packet.descriptors)
        elif packet.is_torn:
            self._send(Leave(answer.number))
            self._set_error(answer.number, Unavailable(_NO_DESCRIPTOR))
        else:
            try:
                result = self._codec.decode(asked.method.result, answer.result, packet.descriptors)
            except Violation as violation:
                if not self._is_trusted:
                    raise
                self._note_fault("answer", violation)
                self._send(Leave(answer.number))  # whatever it has opened
                self._set_error(answer.number, FaultElsewhere("the answer was none; see the log"))
            else:
                asked.answer.set_result(result)

    def _set_error(self, number: int, error: Exception) -> None:
        asked = self._asked.get(number)
        if asked is not None and not asked.answer.done():
            asked.answer.set_exception(error)

    # Answering

    def _do(self, answer: Callable[[], object], call: Call) -> None:
        token, asker = request_id.set(call.request_id), client.set(self._client_at(call.connection))
        try:
            answer()
        except Exception as error:  # noqa: BLE001 - nobody waits for it, so it is told here
            if not isinstance(error, _EXPECTED):
                self._note_fault("answer", error)
        finally:
            request_id.reset(token)
            client.reset(asker)

    async def _work(self, answer: Callable[[], Any], call: Call, work: _Work) -> None:
        request_id.set(call.request_id)
        client.set(self._client_at(call.connection))
        try:
            await self._answer(answer, call, work)
        except asyncio.CancelledError:
            self._fail(call, Unavailable("the mirror is being stopped"))
            if not work.left.is_set():
                raise
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and so is the log
            if isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR_ERRORS:
                self._fail(call, Unavailable(_NO_DESCRIPTOR))
                return
            if not isinstance(error, _EXPECTED):
                self._note_fault("answer", error)
            self._fail(call, error)

    async def _answer(self, answer: Callable[[], Any], call: Call, work: _Work) -> None:
        if work.way is Way.CALL:
            self._send_answer(call.number, await answer())
            return
        async with answer() as opened:
            work.is_open = True
            self._send_answer(call.number, opened)
            await work.left.wait()

    def _send_answer(self, number: int, result: object) -> None:
        data, opened = self._codec.encode(result)
        self._channel.send(self._codec.encode(Answer(number, msgspec.Raw(data)))[0], opened)

    def _fail(self, call: Call, error: Exception) -> None:
        if not call.number:
            return
        try:
            self._send(failure(call.number, error))
        except (TypeError, ValueError, OverflowError) as unspeakable:  # in what it has for detail
            self._note_fault("answer", unspeakable)
            self._send(Failure(call.number, "fault"))


def proxy(protocol: type, peer: Peer) -> Any:
    """The other side, as an implementation of `protocol`, which it serves."""
    ask = {Way.CALL: peer.call, Way.OPEN: peer.open, Way.TELL: peer.tell}
    methods = interface_of(protocol).items()
    return type(f"{protocol.__name__}Proxy", (), {"__slots__": ()} | {
        name: staticmethod(partial(ask[method.way], method)) for name, method in methods
    })()  # fmt: skip


def _close(result: Any) -> None:
    """Close what has come with an answer, if anything has."""
    if (close := getattr(result, "close", None)) is not None:
        close()
