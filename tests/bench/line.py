"""A bad line in a process of its own, so that its work is not a server's, nor the bench's.

`python -m tests.bench.line TARGET_PORT PORT CONTROL_PORT` runs it; `running_line` is how.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.client import get
from tests.support.process import Process, answers, free_port
from tests.support.relay import Relay


class Line:
    """`url` leads through it."""

    def __init__(self, port: int, control_port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._control = f"http://127.0.0.1:{control_port}/?"

    async def set(self, **attributes: float | None) -> int:
        """Set attributes of the `Relay`; gives the bytes that it has carried to the client."""
        return (await self._tell(**attributes))[0]

    async def carried(self) -> int:
        """Bytes to the client so far."""
        return await self.set()

    async def sent(self) -> int:
        """Bytes from the client so far."""
        return (await self._tell())[1]

    async def _tell(self, **attributes: float | None) -> tuple[int, int]:
        answer = await get(self._control + json.dumps(attributes, separators=(",", ":")))
        to_client, to_server = json.loads(answer.body)
        return to_client, to_server


@asynccontextmanager
async def running_line(target_port: int, log: Path) -> AsyncIterator[Line]:
    """Run a line to a port of this machine."""
    port, control_port = free_port(), free_port()
    ports = (str(target_port), str(port), str(control_port))
    ready = partial(answers, f"http://127.0.0.1:{control_port}/?{{}}")
    command = (sys.executable, "-m", "tests.bench.line", *ports)
    async with Process(command, log=log, ready=ready):
        yield Line(port, control_port)


async def _serve(target_port: int, port: int, control_port: int) -> None:
    relay = Relay(target_port)
    relay.port = port

    async def control(request: web.Request) -> web.Response:
        attributes: Mapping[str, Any] = json.loads(request.query_string)
        for name, value in attributes.items():
            setattr(relay, name, value)
        return web.json_response([relay.bytes_to_client, relay.bytes_to_server])

    app = web.Application()
    app.router.add_get("/", control)
    runner = web.AppRunner(app, access_log=None, handle_signals=True)
    async with relay:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", control_port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(web.GracefulExit):
        asyncio.run(_serve(*map(int, sys.argv[1:])))
