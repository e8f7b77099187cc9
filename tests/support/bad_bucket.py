"""An S3 server that is slow, or fails now and then: a proxy in front of a real one."""

import asyncio
from http import HTTPStatus
from io import BytesIO
from random import Random
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class BadBucket:
    """Set its attributes at any time; they hold from the next request on."""

    def __init__(self, target_port: int, *, seed: int = 14) -> None:
        self.failing = 0.0  # so many of all requests are answered with 503
        self.loses = 0.0  # so many are done, and answered with 503 all the same
        self.delay = 0.0  # seconds, before each answer
        self.failed = 0
        self.requests: list[tuple[str, str]] = []  # method, path
        self.port = 0
        self._target = target_port
        self._random = Random(seed)  # noqa: S311 - a test's dice
        self._runner: web.ServerRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False, requote_redirect_url=False)
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        body = await request.content.read()  # of any size
        await asyncio.sleep(self.delay)
        if self._random.random() < self.failing:
            self.failed += 1
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="SlowDown")
        assert self._session is not None
        url = URL(f"http://127.0.0.1:{self._target}{request.raw_path}", encoded=True)
        async with self._session.request(
            request.method, url, headers=request.headers, data=BytesIO(body) if body else None,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
        ) as response:  # fmt: skip
            content = await response.read()
        if self._random.random() < self.loses:
            self.failed += 1
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="SlowDown")
        headers = {
            name: value
            for name, value in response.headers.items()
            if name.lower() not in _HOP_BY_HOP
        }
        if request.method == "HEAD":
            headers["Content-Length"] = response.headers.get("Content-Length", "0")
        return web.Response(status=response.status, headers=headers, body=content)
