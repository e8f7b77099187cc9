"""What is in layers: read by a process of its own, which may be given anything to read.

layers are unpacked as a stream, and nothing of them is written anywhere
bounded are the bytes, the entries, the length of paths, the memory, and the time
what was read last is remembered there, for as long as somebody looks around
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import msgspec

from mirror.contents.manifests import Manifests, NotHere, PlatformImage
from mirror.contents.models import Change, Diff, File, Files
from mirror.contents.questions import DiffImages, ListFiles, ListLayerFiles
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import RegistryError
from mirror.storage.store import LocalStorage

_PATIENCE = 120.0  # seconds for one question

_LONGEST_ANSWER = 16 * 2**20  # bytes; pages are smaller
_BOOT = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from mirror.contents.layer_program import main; main()"
)


class _Answer(msgspec.Struct):
    """What the process says."""

    files: list[File] | None = None
    changes: list[Change] = []
    unread: list[str] = []
    after: str | None = None
    trouble: str | None = None


class LayerFiles:
    """Looks into layers. Use `LayerFiles.open`. Its methods raise ValueError and NotHere."""

    def __init__(self, store: LocalStorage, manifests: Manifests) -> None:
        self._store = store
        self._manifests = manifests
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, store: LocalStorage, manifests: Manifests) -> AsyncIterator["LayerFiles"]:
        """The process is started when somebody asks, and ended at exit."""
        files = cls(store, manifests)
        try:
            yield files
        finally:
            await files._end()

    async def list_files(self, question: ListFiles) -> Files:
        """What is at a path of an image."""
        image = await self._image(question.image, question.platform)
        answer = await self._ask(
            {
                "ask": "files", "path": question.path, "recursive": question.recursive,
                "removed": question.removed, "after": question.after, "limit": question.limit,
            },
            layers=image.layers,
        )  # fmt: skip
        if answer.files is None:
            unread = "".join(f"; {it}" for it in answer.unread)
            raise NotHere(f"{question.path} is not in {question.image}, and never was{unread}")
        return Files(
            name=question.image, path=question.path, files=answer.files, unread=answer.unread,
            layers=[str(it.digest) for it in image.layers], after=answer.after,
        )  # fmt: skip

    async def list_layer(self, question: ListLayerFiles) -> Files:
        """What a layer holds, in its own order."""
        try:
            digest = parse_digest(question.digest)
        except RegistryError as error:
            raise ValueError(f"{question.digest}: {error.message}") from error
        if question.after and not question.after.isdecimal():
            raise ValueError("after: not what the page before has ended with")
        if not await self._store.find_stored([digest], can_wait=True):
            raise NotHere(f"{digest} is not here")
        answer = await self._ask(
            {"ask": "layer", "after": question.after, "limit": question.limit},
            layers=[Descriptor("", digest, 0)],
        )
        return Files(
            name=question.digest, path="/", files=answer.files or [], unread=answer.unread,
            layers=[question.digest], after=answer.after,
        )  # fmt: skip

    async def diff(self, question: DiffImages) -> Diff:
        """What is another way in the other image."""
        image = await self._image(question.image, question.platform)
        other = await self._image(question.other, question.platform or image.platform)
        answer = await self._ask(
            {
                "ask": "diff", "path": question.path, "after": question.after,
                "limit": question.limit,
            },
            layers=image.layers,
            other=other.layers,
        )  # fmt: skip
        ours, theirs = ([it.digest for it in one.layers] for one in (image, other))
        return Diff(
            name=question.image, other=question.other, changes=answer.changes,
            shared_layers=len(set(ours) & set(theirs)), unread=answer.unread, after=answer.after,
        )  # fmt: skip

    async def _image(self, name: str, platform: str) -> PlatformImage:
        named = await self._manifests.find(name)
        return await self._manifests.choose(await self._manifests.read_tree(named.digest), platform)

    async def _ask(
        self,
        question: dict[str, object],
        *,
        layers: Sequence[Descriptor],
        other: Sequence[Descriptor] = (),
    ) -> _Answer:
        async with self._turn, AsyncExitStack() as opened:
            files: dict[Digest, str] = {}
            for layer in {it.digest: it for it in (*layers, *other)}:
                blob = await self._store.look_into(layer)  # it stays while it is read
                if blob is not None:
                    opened.callback(blob.close)
                    files[layer] = str(blob.file.name)
            asked = question | {
                "layers": [[str(it.digest), files.get(it.digest, "")] for it in layers],
                "other": [[str(it.digest), files.get(it.digest, "")] for it in other],
            }
            try:
                async with asyncio.timeout(_PATIENCE):
                    said = await self._converse(json.dumps(asked).encode() + b"\n")
            except BaseException as error:
                await self._end()  # in the midst of an answer
                if isinstance(error, TimeoutError):
                    raise NotHere("its layers could not be read in time") from error
                raise
        answer = msgspec.json.decode(said, type=_Answer)
        if answer.trouble is not None:
            raise NotHere(answer.trouble)
        return answer

    async def _converse(self, asked: bytes) -> bytes:
        for _ in range(2):  # it may just have ended, as it does when nobody asks
            process = self._process or await self._start()
            assert process.stdin is not None  # noqa: S101 - see `_start`
            assert process.stdout is not None  # noqa: S101
            with suppress(ConnectionError, RuntimeError):
                process.stdin.write(asked)
                await process.stdin.drain()
                if answer := await process.stdout.readline():
                    return answer
            await self._end()
        return b'{"trouble": "the process that reads layers has ended: they take too much"}'

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", _BOOT, os.pathsep.join(sys.path),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True, limit=_LONGEST_ANSWER,
        )  # fmt: skip
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()
