"""Somebody who is told: a webhook on 127.0.0.1 that remembers what it was sent."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Told:
    """One request, as it came."""

    path: str
    headers: Mapping[str, str]
    notice: dict[str, Any]


class Hook:
    """Set `answers` at any time: statuses (and headers) of the next ones; then it takes all."""

    def __init__(self, *, context: ssl.SSLContext | None = None) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.told: list[Told] = []
        self.hangs = False
        self.port = 0
        self._context = context
        self._news = asyncio.Event()
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        scheme = "https" if self._context else "http"
        return f"{scheme}://127.0.0.1:{self.port}/hooks/T0/secret"

    def texts(self) -> list[str]:
        return [it.notice["text"] for it in self.told]

    async def was_told(self, count: int = 1, **wanted: str) -> list[dict[str, Any]]:
        """So many notices with these values, as soon as there are."""
        async with asyncio.timeout(30):
            while True:
                notices = [it.notice for it in self.told]
                found = [it for it in notices if wanted.items() <= it.items()]
                if len(found) >= count:
                    return found
                await self._news.wait()

    async def start(self) -> None:
        server = web.Server(self._take, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._context).start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.stop()

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        notice = json.loads(await request.text())
        self.told.append(Told(request.path, dict(request.headers), notice))
        self._news.set()
        self._news.clear()
        if self.hangs:
            await asyncio.Event().wait()
        status, headers = self.answers.pop(0) if self.answers else (204, {})
        return web.Response(status=status, headers=headers)
