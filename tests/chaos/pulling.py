"""Clients that pull, and look at every byte of it."""

import asyncio
import time
from collections.abc import Mapping

import aiohttp

from tests.chaos.judge import Judge, Moment
from tests.chaos.world import Place, World
from tests.support.client import Client, client
from tests.support.images import Image, digest_of

BREAKS = (aiohttp.ClientError, OSError, TimeoutError)
"""What a client sees of a connection that is lost."""

_PATIENCE = 150.0  # seconds for one image
_FRESH = 3.0  # seconds, by which a tag may be old: what is configured, and the way there
_LONGEST = 60.0  # seconds for one blob
_PIECE = 2**16  # bytes
_RANGES = (None, 0, 100, 100_000, 1_000_000)  # bytes beyond the first; None: to the end


class Puller:
    """Clients of one address, one after the other."""

    def __init__(self, url: str, address: str, world: World, judge: Judge) -> None:
        self._url = url
        self._address = address
        self._world = world
        self._judge = judge
        self._dice = world.dice

    async def run(self, stop: asyncio.Event) -> None:
        """Pull until it is time to stop."""
        while not stop.is_set():
            async with client(self._url, address=self._address) as connected:
                for _ in range(self._dice.randint(1, 8)):
                    if stop.is_set():
                        break
                    try:
                        async with asyncio.timeout(_PATIENCE):
                            await self._pull(connected, self._world.find_place())
                    except TimeoutError:
                        self._judge.object(f"a pull took {_PATIENCE} s")
                    await asyncio.sleep(0.3 * self._dice.random())

    async def _pull(self, connected: Client, place: Place) -> None:
        by_digest = self._dice.random() < 0.3
        reference = self._world.digest_at(place) if by_digest else place.tag
        image = await self._manifest(connected, place, reference)
        if image is not None and image.members:
            image = await self._manifest(connected, place, self._dice.choice(image.members).digest)
        if image is not None:
            for digest in self._dice.sample([*image.blobs], len(image.blobs)):
                await self.blob(connected, place.name, digest, image.blobs[digest])

    async def _manifest(self, connected: Client, place: Place, reference: str) -> Image | None:
        what, began = f"manifest of {place.name} {reference}", self._judge.begin()
        try:
            answer = await connected.manifest(place.name, reference)
        except BREAKS as error:
            self._judge.broke(began, what, error)
            return None
        if answer.status != 200:
            self._judge.refused(began, what, answer.status, answer.body)
            return None
        self._judge.saw("manifest 200")
        digest = digest_of(answer.body)
        if answer.headers["Docker-Content-Digest"] != digest:
            self._judge.object(f"{what}: it is {digest}, and is called otherwise")
        if reference == place.tag:
            is_stale = "stale" in answer.headers.get("Cache-Status", "")
            self._look_at_tag(place, digest, began, is_stale=is_stale)
        elif digest != reference:
            self._judge.object(f"{what}: it is {digest}")
        return self._world.images.get(digest)

    def _look_at_tag(self, place: Place, digest: str, began: Moment, *, is_stale: bool) -> None:
        try:
            replaced_at = self._world.replaced_at(place, digest)
        except LookupError:
            self._judge.object(f"{place} has never been {digest}")
            return
        is_old = replaced_at is not None and replaced_at < began.at - _FRESH
        if is_old and not is_stale and self._judge.must_succeed(began):
            self._judge.object(f"{place} is old, and nothing says so")

    async def blob(self, connected: Client, name: str, digest: str, content: bytes) -> None:
        """Ask for a blob in one of many ways."""
        what, began = f"blob of {name} {digest}", self._judge.begin()
        path = f"/v2/{name}/blobs/{digest}"
        try:
            if self._dice.random() < 0.12:
                await self._head(connected, path, began, len(content))
            else:
                headers, wanted = self._range_of(content)
                await self._get(connected, path, headers, content, wanted)
        except BREAKS as error:
            self._judge.broke(began, what, error)
        if time.monotonic() - began.at > _LONGEST:
            self._judge.object(f"{what} took {time.monotonic() - began.at:.0f} s")

    async def _head(self, connected: Client, path: str, began: Moment, size: int) -> None:
        answer = await connected.head(path)
        if answer.status != 200:
            self._judge.refused(began, f"head of {path}", answer.status, b"")
        elif int(answer.headers["Content-Length"]) != size:
            self._judge.object(f"head of {path}: {answer.headers['Content-Length']}, not {size}")
        else:
            self._judge.saw("head 200")

    async def _get(
        self, connected: Client, path: str, headers: Mapping[str, str], content: bytes, part: bytes
    ) -> None:
        what, began = f"blob {path} {headers}", self._judge.begin()
        leaves, is_slow = self._dice.random() < 0.15, self._dice.random() < 0.1
        async with connected.open(path, headers=headers) as response:
            if response.status not in {200, 206}:
                self._judge.refused(began, what, response.status, await response.read())
                return
            self._judge.saw(f"blob {response.status}")
            wanted = content if response.status == 200 else part
            received = bytearray()
            async for piece in response.content.iter_chunked(_PIECE):
                received += piece
                if leaves and len(received) > len(wanted) // 2:
                    self._judge.saw("blob left")
                    response.close()
                    return
                if is_slow:
                    await asyncio.sleep(0.02)
        if received == wanted:
            return
        if response.status == 206 and self._judge.may_be_lied_to:
            self._judge.saw("blob 206 unproved")  # a part has no digest that it could be held to
        else:
            self._judge.object(
                f"{what}: complete, and wrong: {len(received)} bytes of {len(wanted)}, "
                f"{response.headers}"
            )

    def _range_of(self, content: bytes) -> tuple[dict[str, str], bytes]:
        if not content or self._dice.random() < 0.7:
            return {}, content
        first, further = self._dice.randrange(len(content)), self._dice.choice(_RANGES)
        if further is None:
            return {"Range": f"bytes={first}-"}, content[first:]
        last = min(len(content) - 1, first + further)
        return {"Range": f"bytes={first}-{last}"}, content[first : last + 1]
