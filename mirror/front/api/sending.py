"""Blobs on their way to a client's connection by the kernel alone, as far as their files grow."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO

from aiohttp import web

from mirror.aio.sending import Sendfile, flushed


class Sender:
    """Sends to one connection. The descriptor is its own: the loop watches the other."""

    def __init__(self, request: web.BaseRequest, descriptor: int) -> None:
        self._request = request
        self._descriptor = descriptor

    async def send(
        self, file: FileIO, position: int, limit: int, note: Callable[[int], object] = int
    ) -> None:
        """Send what the file has from `position` to `limit`; `note` is told how many bytes went.

        It is told also where not all of them did.

        Raises:
            ConnectionError: The client has left, or took nothing for `server.send_timeout`.
            OSError: The file is shorter.
        """
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client has left")
        await flushed(transport, self._request.writer.drain)
        sending = Sendfile(self._descriptor, file, position, limit)
        try:
            await sending.run()
        except TimeoutError as error:  # the kernel's (TCP_USER_TIMEOUT)
            raise ConnectionAbortedError("the client takes nothing") from error
        finally:
            note(sending.position - position)


@contextmanager
def sending_to(request: web.BaseRequest) -> Iterator[Sender]:
    """A sender for a plain connection, inside the block.

    Raises:
        ConnectionError: The client has left.
    """
    if request.transport is None:
        raise ConnectionResetError("the client has left")
    descriptor = os.dup(request.transport.get_extra_info("socket").fileno())
    try:
        yield Sender(request, descriptor)
    finally:
        os.close(descriptor)
