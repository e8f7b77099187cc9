"""The depot of a mirror that runs, asked over its admin port."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TypeVar

import aiohttp
import msgspec

from mirror.control.api.bundles import BLOB, OCTETS, Kept, OneDigest
from mirror.control.bundles import (
    CHUNK,
    Arrived,
    ArrivedList,
    Digests,
    Plan,
    Recorded,
    Sent,
    Wanted,
)
from mirror.control.problems import ProblemDetails
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import DigestMismatch, ErrorCode, Missing, StoreError
from mirror.operate.asking import NoAnswer, RunningMirror

_CONNECT = 10.0  # seconds
_SILENT = 300.0  # seconds; blobs may have to make room first

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class RemoteDepot:
    """Implements `control.bundles.Depot`; all of it may raise NoAnswer. Use `RemoteDepot.open`."""

    def __init__(self, session: aiohttp.ClientSession, where: str) -> None:
        self._session = session
        self._where = where

    @classmethod
    @asynccontextmanager
    async def open(cls, mirror: RunningMirror) -> AsyncIterator["RemoteDepot"]:
        """Ask inside the block."""
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT, sock_read=_SILENT)
        async with aiohttp.ClientSession(
            headers=mirror.headers_of_keeper(), timeout=timeout, auto_decompress=False
        ) as session:
            yield cls(session, mirror.where)

    async def plan(self, wanted: Wanted) -> Plan:
        """What is here of an image."""
        return await self._ask("plan", wanted, Plan)

    async def read(self, digest: Digest) -> AsyncGenerator[bytes, None]:
        """A blob, in pieces of at most CHUNK bytes."""
        async with self._send("POST", BLOB, msgspec.json.encode(OneDigest(str(digest)))) as answer:
            async for piece in answer.content.iter_chunked(CHUNK):
                yield piece

    async def find_missing(self, digests: Sequence[Digest]) -> set[Digest]:
        """Which of these (MOST_ASKED at most) are not here."""
        missing = await self._ask("missing", Digests([*map(str, digests)]), Digests)
        return set(map(parse_digest, missing.digests))

    async def write(
        self,
        digest: Digest,
        size: int,
        chunks: AsyncIterable[bytes],
        *,
        upstreams: Collection[str],
        is_manifest: bool,
    ) -> None:
        """Keep a blob that a bundle holds, in images of these upstreams."""
        query = [("digest", str(digest)), *(("upstream", name) for name in upstreams)]
        query += [("manifest", "true")] if is_manifest else []
        headers = {"Content-Type": OCTETS, "Content-Length": str(size)}
        async with self._send("PUT", BLOB, chunks, headers=headers, query=query) as answer:
            await self._decode(answer, Kept)

    async def note_sent(self, sent: Sent) -> None:
        """A bundle holds these too, which are here already."""
        await self._ask("sent", sent, Digests)

    async def record(self, image: Arrived) -> Recorded:
        """Put an image on record: so it can be pulled."""
        return await self._ask("images", image, Recorded)

    async def record_referrers(self, arrived: ArrivedList) -> Recorded:
        """Put on record what refers to something, as far as it is here."""
        return await self._ask("referrers", arrived, Recorded)

    async def _ask(self, what: str, sent: msgspec.Struct, wanted: type[_Answer]) -> _Answer:
        async with self._send("POST", f"/bundles/{what}", msgspec.json.encode(sent)) as answer:
            return await self._decode(answer, wanted)

    async def _decode(self, answer: aiohttp.ClientResponse, wanted: type[_Answer]) -> _Answer:
        try:
            return msgspec.json.decode(await answer.read(), type=wanted)
        except msgspec.MsgspecError as error:
            raise NoAnswer(
                f"{self._where}: what answers there is no mirror of this version"
            ) from error

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterable[bytes],
        *,
        headers: dict[str, str] | None = None,
        query: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        sent = headers or {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method, f"http://{self._where}/api/v1{path}", data=body, headers=sent,
                params=list(query), allow_redirects=False,
            ) as answer:  # fmt: skip
                if answer.status != HTTPStatus.OK:
                    await self._raise(answer)
                yield answer
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise NoAnswer(f"{self._where} has not answered: {error}") from error

    async def _raise(self, answer: aiohttp.ClientResponse) -> None:
        detail = (await self._decode(answer, ProblemDetails)).detail
        match answer.status:
            case HTTPStatus.UNPROCESSABLE_ENTITY:
                raise DigestMismatch(detail)
            case HTTPStatus.INSUFFICIENT_STORAGE:
                raise StoreError(detail)
            case HTTPStatus.NOT_FOUND:
                raise Missing(ErrorCode.BLOB_UNKNOWN, detail)
            case HTTPStatus.BAD_REQUEST:
                raise ValueError(detail)
            case _:
                raise NoAnswer(f"{self._where}: {detail}")
