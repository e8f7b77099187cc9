"""A client that sends exactly what a test says, and believes nothing it gets unchecked."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mirror.aio.trust import trust

_PATIENCE_SECONDS = 60  # without any byte; tests are local, and machines are busy
_RECEIVED_AHEAD = 256 * 2**10  # bytes; left alone, the system takes in up to tens of MiB

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

Headers = Mapping[str, str]
_Address = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that arrived whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def digest(self) -> str:
        """The sha256 digest of the body, as it is written in a manifest."""
        return f"sha256:{hashlib.sha256(self.body).hexdigest()}"


class Client:
    """Pulls from a registry as daemons do: no redirects followed unless asked, no decoding."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def get(self, target: str, **settings: Any) -> Answer:
        """`GET` a target such as `/v2/`; `aiohttp.ClientError` when the body is cut short."""
        async with self.open(target, **settings) as response:
            return Answer(response.status, response.headers, await response.read())

    async def head(self, target: str, **settings: Any) -> Answer:
        """`HEAD` a target such as `/v2/`."""
        async with self.open(target, method="HEAD", **settings) as response:
            return Answer(response.status, response.headers, await response.read())

    async def manifest(self, repository: str, reference: str, **settings: Any) -> Answer:
        """`GET` a manifest as daemons do, with every media type accepted."""
        accept = CIMultiDict(("Accept", media_type) for media_type in MANIFEST_TYPES)
        target = f"/v2/{repository}/manifests/{reference}"
        return await self.get(target, headers=accept, **settings)

    async def blob(self, repository: str, digest: str, **settings: Any) -> Answer:
        """`GET` a blob."""
        return await self.get(f"/v2/{repository}/blobs/{digest}", **settings)

    @asynccontextmanager
    async def open(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: Headers | None = None,
        data: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give the response as soon as its headers are there."""
        url = URL(self._url + target, encoded=True)
        async with self._session.request(
            method, url, headers=headers, data=data, allow_redirects=False
        ) as response:
            yield response


@asynccontextmanager
async def client(
    url: str, *, ca_file: str | None = None, address: str | None = None
) -> AsyncIterator[Client]:
    """A client of the server at `url`, which has this address; its connections end afterwards."""
    context = trust(Path(ca_file)) if ca_file else True
    patience = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_PATIENCE_SECONDS)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            ssl=context,
            limit=0,
            force_close=False,
            socket_factory=_small_socket,
            local_addr=(address, 0) if address else None,
        ),
        timeout=patience,
        auto_decompress=False,
        requote_redirect_url=False,
        skip_auto_headers=("Accept-Encoding",),
    ) as session:
        yield Client(session, url)


async def get(url: str, **settings: Any) -> Answer:
    """`GET` one URL with a client of its own."""
    async with client("") as one:
        return await one.get(url, **settings)


async def head(url: str, **settings: Any) -> Answer:
    """`HEAD` one URL with a client of its own."""
    async with client("") as one:
        return await one.head(url, **settings)


async def raw_request(host: str, port: int, request: bytes) -> bytes:
    """Send these bytes and return everything that comes back until the server closes.

    A request that leaves the connection open (no `Connection: close`) is closed after the
    server has been silent for a second.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        await writer.drain()
        received = bytearray()
        with suppress(TimeoutError, ConnectionResetError):
            while chunk := await asyncio.wait_for(reader.read(65536), timeout=1):
                received += chunk
        return bytes(received)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def _small_socket(address: _Address) -> socket.socket:
    """A client that stops reading has not all of a blob in its socket by then."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED_AHEAD)
    return made
