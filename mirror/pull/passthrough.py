"""A blob that cannot be kept, handed from upstream to one client; hashed all the same."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace

from mirror.aio.slots import Urgency
from mirror.oci.digest import Digest
from mirror.oci.errors import DigestMismatch, Unavailable
from mirror.sources.ports import BlobSource, Body, Chunk

_FIRST = 2**16  # bytes of a body from elsewhere that wait until there are more, or a proof


class PassThrough:
    """Bytes as they arrive, in bounded memory; `proved` is told how many, once they are."""

    def __init__(
        self, digest: Digest, body: Body, source: BlobSource, *, proved: Callable[[int], None]
    ) -> None:
        self._digest = digest
        self._proved = proved
        self._source = source
        self._body = body

    @property
    def size(self) -> int | None:
        """In bytes, by the word of whoever sends it."""
        return self._body.size

    def check_empty(self) -> None:
        """An empty body is complete with its head: see that it is right. Raises DigestMismatch."""
        if self.size == 0 and not self._digest.names(b""):
            raise self._mismatch()

    async def prove_short(self) -> None:
        """See that what is short and comes from elsewhere is right before its size is told.

        Raises:
            RegistryError: It is not, or ends too early.
        """
        if not self._body.is_from_elsewhere or self.size is None or self.size > _FIRST:
            return
        async with aclosing(self._body.chunks) as chunks:
            content = b"".join([bytes(chunk) async for chunk in chunks])
        if not self._digest.names(content):
            raise self._mismatch()
        self._body = replace(self._body, chunks=_whole(content))

    async def chunks(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop` (None: to the end).

        All of the blob is read, since nothing less proves it; the last piece is held back until
        it is proved.

        Raises:
            RegistryError: The bytes are wrong, or end too early.
        """
        hasher = self._digest.hasher()
        position = 0
        first = _FIRST if self._body.is_from_elsewhere and (self.size or 0) <= _FIRST else 0
        held = b""
        async with aclosing(self._body.chunks) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(hasher.update, chunk)
                end = len(chunk) if stop is None else max(0, stop - position)
                wanted = chunk[max(0, start - position) : end]
                position += len(chunk)
                if wanted:
                    wanted = bytes(wanted)  # the client's connection may keep it for long
                    if position <= first:
                        held += wanted
                        continue
                    if held:
                        yield held
                    held = wanted
        if not self._digest.matches(hasher):
            raise self._mismatch()
        self._proved(position)
        if held:
            yield held

    def _mismatch(self) -> DigestMismatch:
        self._source.distrust(self._digest, [self._body.sender], is_disproved=True)
        return DigestMismatch("upstream sent bytes that are not what their digest says")


async def _whole(content: bytes) -> AsyncGenerator[Chunk, None]:
    yield content


@asynccontextmanager
async def passing_through(
    source: BlobSource, digest: Digest, *, patience: float, proved: Callable[[int], None]
) -> AsyncIterator[PassThrough]:
    """Ask for a blob that is not kept, and wait for its start for so many seconds.

    `proved` is told its size, in bytes, once it is.

    Raises:
        Missing, Denied, Unavailable, DigestMismatch: What upstream says, or that it says nothing.
    """
    async with AsyncExitStack() as stack:
        opening = source.open_blob(digest, 0, None, avoid=None, urgency=Urgency.of_client())
        try:
            async with asyncio.timeout(patience):
                body = await stack.enter_async_context(opening)
        except TimeoutError as error:
            raise Unavailable("the blob has not begun to arrive in time", timed_out=True) from error
        stream = PassThrough(digest, body, source, proved=proved)
        stream.check_empty()
        await stream.prove_short()
        yield stream
