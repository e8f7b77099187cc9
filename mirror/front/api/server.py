"""aiohttp's server, but for what it makes of requests that are none.

Its own way is to log a traceback with the line that it could not read, a password perhaps, and to
send that back too.
"""

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mirror.front.api.frontend import Frontend


class Server(web.Server):
    """Hands requests to the frontend, and tells it of what could not be read as one."""

    def __init__(self, frontend: Frontend) -> None:
        super().__init__(frontend, handler_cancellation=True, access_log=None)
        self._frontend = frontend

    def __call__(self) -> web.RequestHandler:
        """What answers on one connection."""
        return _Connection(self._frontend, self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ("_frontend",)

    def __init__(self, frontend: Frontend, server: Server, **settings: object) -> None:
        super().__init__(server, **settings)  # type: ignore[arg-type]  # the library's own, as it passes them
        self._frontend = frontend

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read, or could not be answered; then hang up."""
        del message  # it quotes the client
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun: there is no other")
        if exc is None or isinstance(exc, HttpProcessingError):
            response = self._frontend.refuse(request, status)
        else:
            response = self._frontend.confess(exc)
        response.force_close()
        return response
