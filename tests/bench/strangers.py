"""`python -m tests.bench.strangers`: what strangers' questions make of the mirror's memory.

Each question is of a repository, a tag or a digest that nobody has asked for; the registry wants a
token for each, sends a long one, and has nothing. What is printed has to come to an end somewhere.
"""

import asyncio
import hashlib
import itertools
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from tests.support.mirror import MirrorProcess, running_mirror, upstream_at

_MIB = 2**20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CONNECTIONS = 16
_TOLD_EVERY = 5_000  # questions
_TOKEN = 6_000  # bytes, in hexadecimal twice as many
_NOTHING = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"there is nothing"}]}'


class _Registry:
    """Wants a token for each repository, and has nothing."""

    url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, target, _ = head.split(b" ", 2)
        if target.startswith(b"/token"):
            body = b'{"token":"%s","expires_in":300}' % secrets.token_hex(_TOKEN).encode()
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        if b"authorization: bearer" not in head.lower():
            challenge = f'Bearer realm="{self.url}/token",service="strangers"'.encode()
            no = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: %s\r\nContent-Length: 0\r\n\r\n"
            return no % challenge
        body = b"" if method == b"HEAD" else _NOTHING
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(_NOTHING), body)


def _questions() -> Iterator[tuple[str, str]]:
    """Methods and paths, each of names of full length that nobody has heard of."""
    for number in itertools.count():
        repository = f"strangers/r{number}/" + "/".join(["x" * 40] * 4)
        digest = "sha256:" + hashlib.sha256(b"%d" % number).hexdigest()
        what = (
            f"manifests/{f't{number}'.ljust(128, 'y')}", f"manifests/{digest}", f"blobs/{digest}",
            f"referrers/{digest}", "tags/list",
        )[number % 5]  # fmt: skip
        may_be_head = number % 5 < 3 and number % 2
        yield "HEAD" if may_be_head else "GET", f"/v2/{repository}/{what}"


def _told(mirror: MirrorProcess) -> str:
    """Memory in use by the process that decides."""
    statm = Path(f"/proc/{mirror.process.pid}/statm").read_text(encoding="ascii")
    return f"{int(statm.split()[1]) * _PAGE / _MIB:.0f} MiB"


async def _ask(mirror: MirrorProcess, count: int) -> None:
    questions = enumerate(itertools.islice(_questions(), count), start=1)

    async def ask(session: aiohttp.ClientSession) -> None:
        for number, (method, path) in questions:
            async with session.request(method, f"http://{mirror.host}{path}") as response:
                await response.read()
            if number % _TOLD_EVERY == 0:
                print(f"{number:7} questions: {_told(mirror)}", flush=True)

    print(f"{0:7} questions: {_told(mirror)}")
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        for _ in range(_CONNECTIONS):
            tasks.create_task(ask(session))


async def _main(count: int) -> None:
    registry = _Registry()
    server = await asyncio.start_server(registry.serve, "127.0.0.1", 0, limit=2**17)
    registry.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with tempfile.TemporaryDirectory() as directory:
        upstreams = {"docker.io": upstream_at(registry.url)}
        async with running_mirror(Path(directory), upstreams, server={"workers": 1}) as mirror:
            await _ask(mirror, count)
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]) if sys.argv[1:] else 40_000))
