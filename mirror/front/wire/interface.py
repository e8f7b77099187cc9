"""What one side may ask of the other, read from a Protocol; and how its values become bytes.

Whatever arrives is decoded into the types that the Protocol's annotations name, or not at all. What
is open (a file, a connection) is left out of the bytes: it travels beside them as a descriptor, and
a number stands in its place. So does a `Bulk` of bytes, unless it is small.
"""

import inspect
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from io import FileIO
from types import MappingProxyType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from mirror.aio.sealed import MOST_AT_ONCE, Bulk, read_sealed

Open = FileIO | socket.socket
"""What may travel; the sender's own stays open, and is the sender's to close."""

Beside = Open | Bulk
"""What travels beside a message."""

_SMALL = 2**12  # bytes of a `Bulk` that are not worth a file


class Violation(Exception):
    """The other side has sent what it never should."""


class Way(Enum):
    """How a method is asked."""

    CALL = auto()
    OPEN = auto()
    TELL = auto()


@dataclass(frozen=True, slots=True)
class Method:
    """One method: how it is asked, the record of its arguments, the type of its result."""

    name: str
    way: Way
    arguments: Callable[..., msgspec.Struct]
    result: Any


Interface = Mapping[str, Method]


@cache
def interface_of(protocol: type) -> Interface:
    """The methods of a Protocol."""
    functions = inspect.getmembers(protocol, inspect.isfunction)
    return MappingProxyType(
        {name: _method(name, it) for name, it in functions if not name.startswith("_")}
    )


def _method(name: str, function: Callable[..., object]) -> Method:
    hints = get_type_hints(function, include_extras=True)
    result = hints.pop("return")
    arguments = msgspec.defstruct(
        name, [*hints.items()], array_like=True, frozen=True, forbid_unknown_fields=True
    )
    if inspect.iscoroutinefunction(function):
        return Method(name, Way.CALL, arguments, result)
    if get_origin(result) is AbstractAsyncContextManager:
        return Method(name, Way.OPEN, arguments, get_args(result)[0])
    return Method(name, Way.TELL, arguments, result)


Answering = Callable[..., Awaitable[object] | AbstractAsyncContextManager[object] | None]
Served = dict[str, tuple[Method, Answering]]
"""What one side answers to, by name."""


def serve(protocol: type, implementation: object) -> Served:
    """Have `implementation` answer to the methods of `protocol`."""
    methods = interface_of(protocol).items()
    return {name: (method, getattr(implementation, name)) for name, method in methods}


class Codec:
    """Turns values into bytes and what is open in them, and back; for one end of a channel."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._detach)
        self._decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}
        self._sent: list[Beside] = []
        self._received: list[int] = []  # descriptors that are still nobody's
        self._made: list[Open] = []

    def encode(self, value: object) -> tuple[bytes, list[Beside]]:
        """The bytes of a value, and what is open in it.

        Raises:
            TypeError, ValueError, OverflowError: It holds what cannot travel.
        """
        self._sent = []
        return self._encoder.encode(value), self._sent

    def decode(self, kind: Any, data: bytes | msgspec.Raw, descriptors: list[int]) -> Any:
        """A value of type `kind`. The descriptors are its own; on failure they are closed.

        Raises:
            Violation: This is no such value, or there are more descriptors than it has use for.
        """
        decoder = self._decoder(kind)
        self._received, self._made = descriptors, []
        try:
            value = decoder.decode(data)
        except (msgspec.DecodeError, OSError, RecursionError, ValueError, Violation) as error:
            self._refuse()
            raise Violation(str(error)) from error
        if any(descriptor >= 0 for descriptor in descriptors):
            self._refuse()
            raise Violation("more is open than belongs to the message")
        return value

    def _refuse(self) -> None:
        for made in self._made:
            made.close()
        close_all(self._received)

    def expect(self, kind: Any) -> None:
        """Values of this type will come. Raises TypeError for what no value can be decoded into."""
        self._decoder(kind)

    def _decoder(self, kind: Any) -> "msgspec.msgpack.Decoder[Any]":
        decoder = self._decoders.get(kind)
        if decoder is None:
            decoder = msgspec.msgpack.Decoder(kind, dec_hook=self._attach)
            self._decoders[kind] = decoder
        return decoder

    def _detach(self, thing: object) -> int | bytes:
        if isinstance(thing, Bulk) and thing.size <= _SMALL:
            return thing.whole()
        if not isinstance(thing, Beside):
            raise TypeError(f"a {type(thing).__name__} cannot travel")
        self._sent.append(thing)
        return len(self._sent) - 1

    def _attach(self, kind: type, told: object) -> Beside:
        """What came beside the message, in place of its number; each once."""
        if kind is not Bulk:
            return self._opened(kind, self._take(told))
        if isinstance(told, bytes):
            if len(told) > MOST_AT_ONCE:
                raise Violation(f"{len(told)} bytes at once")
            return Bulk(told)
        descriptor = self._take(told)
        try:
            return Bulk(read_sealed(descriptor, most=MOST_AT_ONCE))
        finally:
            os.close(descriptor)

    def _take(self, index: object) -> int:
        if type(index) is not int or not 0 <= index < len(self._received):
            raise Violation("nothing has come with the message under that number")
        descriptor = self._received[index]
        if descriptor < 0:
            raise Violation("the same open file stands for two")
        self._received[index] = -1
        return descriptor

    def _opened(self, kind: type, descriptor: int) -> Open:
        try:
            made: Open = FileIO(descriptor) if kind is FileIO else socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self._made.append(made)
        return made


def close_all(descriptors: list[int]) -> None:
    """Close those of them that are not somebody's yet."""
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
    descriptors.clear()
