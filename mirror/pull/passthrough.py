"""A blob that cannot be kept, handed from upstream to one client; hashed all the same."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from mirror.oci.digest import Digest
from mirror.oci.errors import DigestMismatch
from mirror.sources.registry.registry import Body, Registry


class PassThrough:
    """Bytes as they arrive, in bounded memory."""

    def __init__(self, digest: Digest, body: Body, registry: Registry) -> None:
        self._digest = digest
        self._registry = registry
        self._body = body

    async def chunks(self, start: int, stop: int | None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop` (None: to the end).

        All of the blob is read, since nothing less proves it; the last piece is held back until
        it is proved.

        Raises:
            RegistryError: The bytes are wrong, or end too early.
        """
        hasher = self._digest.hasher()
        position = 0
        held = b""
        async with aclosing(self._body.chunks) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(hasher.update, chunk)
                end = len(chunk) if stop is None else max(0, stop - position)
                wanted = chunk[max(0, start - position) : end]
                position += len(chunk)
                if wanted:
                    if held:
                        yield held
                    held = bytes(wanted)  # the client's connection may keep it for long
        if not self._digest.matches(hasher):
            self._registry.distrust(self._digest, [self._body.endpoint])
            raise DigestMismatch("upstream sent bytes that are not what their digest says")
        if held:
            yield held
