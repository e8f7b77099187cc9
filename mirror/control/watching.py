"""Server-sent events (WHATWG HTML, 9.2): what changes, told again and again to who watches."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import web

from mirror.control.guard import Guard
from mirror.control.problems import Refusal

_EVERY = 1.0  # seconds between events
_PATIENCE = 30.0  # seconds for which somebody may take nothing of what they are told
_MOST = 32  # who watch at once: what each is told costs the mirror's own process a millisecond


class Watching:
    """Tells those who watch, as long as they may."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._count = 0

    async def tell(
        self,
        request: web.Request,
        event: str,
        look: Callable[[], Awaitable[str]],
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """Tell a client again and again what `look` finds.

        Raises:
            Refusal: So many watch that nobody else may.
        """
        if self._count >= _MOST:
            raise Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{_MOST} watch already: close a page, or ask for the status now and then",
                {"Retry-After": "10"},
            )
        self._count += 1
        try:
            response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
            await response.prepare(request)
            while await self._may_watch(request):
                lines = (await look()).splitlines()
                told = "".join(f"data: {line}\n" for line in lines)
                if not await _is_taken(response, f"event: {event}\n{told}\n".encode()):
                    _cut_off(request)  # who reads nothing keeps others from watching
                    break
                await asyncio.sleep(_EVERY)
            return response
        finally:
            self._count -= 1

    async def _may_watch(self, request: web.Request) -> bool:
        """Whether its token is still one: it may have been replaced meanwhile."""
        try:
            await self._guard.require_operator(request)
        except Refusal:
            return False
        return True


async def _is_taken(response: web.StreamResponse, told: bytes) -> bool:
    """Send something; False: nobody has taken it for long."""
    try:
        async with asyncio.timeout(_PATIENCE):
            await response.write(told)
    except TimeoutError:
        return False
    return True


def _cut_off(request: web.Request) -> None:
    """Without waiting until what was sent before is taken."""
    if request.transport is not None:
        request.transport.abort()
