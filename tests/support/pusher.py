"""A client that pushes, step by step or all at once, and remembers where its uploads are.

pusher = Pusher(mirror.client, "library/app")
upload = await pusher.begin()
await upload.patch(content[:1000])
await upload.put(content[1000:], digest)
"""

import json
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from tests.support.client import Answer, Client
from tests.support.images import Image, digest_of

Bytes = bytes | AsyncIterable[bytes]


class Pusher:
    """Of one repository; `headers` come with each request.

    Like docker, it says only where it `tells_length` how much it brings, as skopeo and podman do.
    """

    def __init__(
        self,
        client: Client,
        repository: str,
        headers: Mapping[str, str] | None = None,
        *,
        tells_length: bool = False,
    ) -> None:
        self.client = client
        self.repository = repository
        self.headers = dict(headers or {})
        self.tells_length = tells_length

    async def ask(
        self,
        method: str,
        target: str,
        data: Bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        body = BytesIO(data) if isinstance(data, bytes) else data
        settings: dict[str, Any] = {"method": method, "data": body if data else None}
        given = {**self.headers, **(headers or {})}
        async with self.client.open(target, headers=given, **settings) as response:
            return Answer(response.status, response.headers, await response.read())

    async def post(self, query: str = "", data: Bytes | None = None) -> Answer:
        return await self.ask("POST", f"/v2/{self.repository}/blobs/uploads/{query}", data)

    async def begin(self) -> "Upload":
        answer = await self.post()
        assert answer.status == 202, answer.body
        return Upload(self, answer.headers["Location"])

    async def blob(self, content: bytes, algorithm: str = "sha256") -> str:
        """Push a blob in two requests; gives its digest."""
        digest = digest_of(content, algorithm)
        upload = await self.begin()
        patched = await upload.bring(content)
        assert patched.status == 202, patched.body
        put = await upload.put(b"", digest)
        assert put.status == 201, put.body
        return digest

    async def manifest(self, image: Image, reference: str) -> Answer:
        return await self.ask(
            "PUT", f"/v2/{self.repository}/manifests/{reference}", image.manifest,
            {"Content-Type": image.media_type},
        )  # fmt: skip

    async def image(self, image: Image, tag: str) -> None:
        """Push all of an image, as docker does."""
        for member in image.members:
            await self.image(member, member.digest)
        for content in image.blobs.values():
            await self.blob(content)
        answer = await self.manifest(image, tag)
        assert answer.status == 201, answer.body

    async def head(self, digest: str) -> Answer:
        return await self.ask("HEAD", f"/v2/{self.repository}/blobs/{digest}")


@dataclass
class Upload:
    """One of a pusher's, at the last `location` that it was told."""

    pusher: Pusher
    location: str

    async def patch(self, data: Bytes, *, span: str | None = None) -> Answer:
        headers = {} if span is None else {"Content-Range": span}
        return self._noted(await self.pusher.ask("PATCH", self.location, data, headers))

    async def bring(self, content: bytes) -> Answer:
        """Send all of it in one request, in its client's way."""
        return await self.patch(content if self.pusher.tells_length else in_pieces(content))

    async def put(self, data: Bytes, digest: str, *, span: str | None = None) -> Answer:
        mark = "&" if "?" in self.location else "?"
        headers = {} if span is None else {"Content-Range": span}
        target = f"{self.location}{mark}digest={digest}"
        return await self.pusher.ask("PUT", target, data, headers)

    async def status(self) -> Answer:
        return self._noted(await self.pusher.ask("GET", self.location))

    async def cancel(self) -> Answer:
        return await self.pusher.ask("DELETE", self.location)

    def _noted(self, answer: Answer) -> Answer:
        self.location = answer.headers.get("Location", self.location)
        return answer


async def in_pieces(content: bytes, size: int = 2**16) -> AsyncIterable[bytes]:
    """As docker sends: in chunked coding."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def codes(answer: Answer) -> list[str]:
    """The error codes of an answer."""
    return [error["code"] for error in json.loads(answer.body)["errors"]]
