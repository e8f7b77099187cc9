"""Connections on which registries are taken to mean what they mean, as by Go's HTTP client."""

import asyncio
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from mirror.sources.registry.response_head import ResponseHead


class Connector(aiohttp.TCPConnector):
    """aiohttp's, for lenient connections."""

    def __init__(self, *, limit: int) -> None:
        super().__init__(limit=limit)
        self._factory = cast("partial[ResponseHandler]", partial(_Connection, loop=self._loop))


class _Connection(ResponseHandler):
    """aiohttp's, with each response's head made regular before it is parsed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head: ResponseHead | None = None

    def set_response_params(self, **settings: Any) -> None:
        """A request has been sent: what comes next is a head."""
        self._head = ResponseHead()
        super().set_response_params(**settings)

    def data_received(self, data: bytes) -> None:
        """Bytes have come, of a head or of a body."""
        if self._head is not None and self._parser is not None and data:
            try:
                data = self._head.feed(data)
            except ValueError as error:
                self._refuse(error)
                return
            if not data:
                return
            self._head = None
        super().data_received(data)

    def _refuse(self, error: ValueError) -> None:
        if self.transport is not None:
            self.transport.abort()
        self.set_exception(HttpProcessingError(message=str(error)), error)
