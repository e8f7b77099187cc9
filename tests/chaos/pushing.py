"""Clients that push, and look whether the registry has what they were told that it has."""

import asyncio
from contextlib import suppress

from tests.chaos.judge import Judge
from tests.chaos.pulling import BREAKS, Puller
from tests.chaos.world import World
from tests.support.client import Client, client
from tests.support.images import Image
from tests.support.pusher import Pusher, Upload
from tests.support.upstream import ScriptedRegistry

_PATIENCE = 150.0  # seconds for one image
_ATTEMPTS = 4


class GivenUp(Exception):
    """A push has been tried often enough."""


class Pushes:
    """Clients of one address, one after the other; `registry` is where it all goes."""

    def __init__(
        self, url: str, address: str, registry: ScriptedRegistry, world: World, judge: Judge
    ) -> None:
        self._url = url
        self._address = address
        self._registry = registry
        self._world = world
        self._judge = judge
        self._dice = world.dice
        self._count = 0
        self._puller = Puller(url, address, world, judge)

    async def run(self, stop: asyncio.Event) -> None:
        """Push until it is time to stop."""
        while not stop.is_set():
            await asyncio.sleep(2 * self._dice.random())
            self._count += 1
            began, is_news = self._judge.begin(), self._dice.random() < 0.8
            image = (
                self._world.make_image()
                if is_news
                else self._dice.choice([*self._world.images.values()])
            )
            try:
                async with client(self._url, address=self._address) as connected:
                    await asyncio.wait_for(self._push(connected, image), _PATIENCE)
            except GivenUp:
                self._judge.saw("push given up")
            except TimeoutError:
                self._judge.object(f"a push took {_PATIENCE} s")
            except BREAKS as error:
                self._judge.broke(began, "push", error)

    async def _push(self, connected: Client, image: Image) -> None:
        repository = f"pushed/{self._dice.randint(0, 2)}"
        tag = f"{self._address}-{self._count}"
        pusher = Pusher(connected, repository, tells_length=self._dice.random() < 0.5)
        for one in (*image.members, image):
            for digest, content in one.blobs.items():
                await self._blob(pusher, digest, content)
            began = self._judge.begin()
            answer = await pusher.manifest(one, tag if one is image else one.digest)
            if answer.status != 201:
                self._judge.refused(began, "push-manifest", answer.status, answer.body)
                raise GivenUp
        self._judge.saw("push 201")
        began = self._judge.begin()
        answer = await connected.manifest(repository, tag)
        if answer.status != 200:
            self._judge.refused(began, f"pushed {repository}:{tag}", answer.status, answer.body)
        elif answer.body != image.manifest:
            self._judge.object(f"{repository}:{tag} is not what was pushed")
        for digest, content in (image.members or (image,))[0].blobs.items():
            await self._puller.blob(connected, repository, digest, content)

    async def _blob(self, pusher: Pusher, digest: str, content: bytes) -> None:
        if self._dice.random() < 0.5 and (await pusher.head(digest)).status == 200:
            self._judge.saw("push-blob spared")
            return
        for _ in range(_ATTEMPTS):
            if await self._try_blob(pusher, digest, content):
                return
            await asyncio.sleep(1)
        raise GivenUp

    async def _try_blob(self, pusher: Pusher, digest: str, content: bytes) -> bool:
        began = self._judge.begin()
        answer = await pusher.post()
        if answer.status != 202:
            self._judge.refused(began, "push-post", answer.status, answer.body)
            return False
        upload = Upload(pusher, answer.headers["Location"])
        rest = await self._bring(upload, content)
        if rest is None:
            return False
        at = len(content) - len(rest)
        span = f"{at}-{len(content) - 1}" if at and rest else None
        answer = await upload.put(rest, digest, span=span)
        if answer.status != 201:
            self._judge.refused(began, "push-put", answer.status, answer.body)
            return False
        self._judge.saw("push-blob 201")
        there = self._registry.repositories.get(pusher.repository)
        if there is None or there.blobs.get(digest) != content:
            self._judge.object(f"201, and the registry has no {pusher.repository} {digest}")
        return True

    async def _bring(self, upload: Upload, content: bytes) -> bytes | None:
        """Bring all of it, or nothing yet; what is left for the end. None: begin anew."""
        began, rest = self._judge.begin(), content
        if len(content) > 1000 and self._dice.random() < 0.15:
            left = await self._rest_after_a_break(upload, content)
            if left is None:
                return None
            rest = left
        if not rest or self._dice.random() < 0.5:
            return rest
        at = len(content) - len(rest)
        if not at:
            answer = await upload.bring(content)
        else:
            answer = await upload.patch(rest, span=f"{at}-{len(content) - 1}")
        if answer.status == 202:
            return b""
        if answer.status == 416 and at:
            self._judge.saw("push-patch 416")
        else:
            self._judge.refused(began, "push-patch", answer.status, answer.body)
        return None

    async def _rest_after_a_break(self, upload: Upload, content: bytes) -> bytes | None:
        """Hang up in its midst; what is still to be brought, by the mirror's word."""
        with suppress(*BREAKS):
            await asyncio.wait_for(upload.bring(content), 0.05)
        self._judge.saw("push-patch left")
        if self._dice.random() < 0.5:
            return None  # its client begins anew
        answer = await upload.status()
        if answer.status != 204:
            return None
        reached = int(answer.headers.get("Range", "0-0").rpartition("-")[2])
        return content[reached + 1 :] if reached else content
