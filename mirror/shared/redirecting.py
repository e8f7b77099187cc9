"""Sending clients to the bucket for what is large (`redirect = "large"`): only to what is there.

A client that is sent where nothing is, or that nobody answers, has no way back: its pull fails, and
so does the next. So the object is looked at before, unless it was a moment ago; whatever is wrong
with it, or with the bucket, has the mirror serve the blob itself. Who reads the copy (`follow.py`)
finds out whether it is one.
"""

import asyncio
from collections.abc import Callable

from cachetools import TTLCache

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.shared.pieces import Piece
from mirror.shared.ports import Bucket, BucketDown, Ledger, NoObject

LARGE = 2**25  # bytes; from there on clients may be sent to the bucket

_LINK_LIVES = 900.0  # seconds; much less than the grace of eviction
_PATIENCE = 2.0  # seconds for the bucket to say that it is there
_SEEN_FOR = 30.0  # seconds for which an object is known to be there
_REMEMBERED = 4096  # objects


class Redirects:
    """Finds what clients may be sent to. `note_used` is told of each copy that one is."""

    def __init__(
        self,
        ledger: Ledger,
        bucket: Bucket,
        *,
        note_used: Callable[[int], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._bucket = bucket
        self._note_used = note_used
        self._seen: TTLCache[str, None] = TTLCache(_REMEMBERED, ttl=_SEEN_FOR, timer=monotonic)

    async def find(self, upstream: str, digest: Digest) -> tuple[str, int] | None:
        """As `mirror.pull.fill.others.Others.find_elsewhere`."""
        try:
            copy = await self._ledger.find(upstream, digest)
            if (
                copy is None
                or not copy.is_proved
                or (copy.size or 0) < LARGE
                or len(copy.pieces) != 1
            ):
                return None
            [whole] = copy.pieces
            async with asyncio.timeout(_PATIENCE):
                await self._see_that_it_is_there(whole)
                url = await self._bucket.sign(whole.key, _LINK_LIVES)
        except (StoreError, BucketDown, NoObject, TimeoutError):
            return None
        self._note_used(copy.blob)
        return url, whole.stop

    async def _see_that_it_is_there(self, whole: Piece) -> None:
        """Raises NoObject, BucketDown."""
        if whole.key in self._seen:
            return
        if await self._bucket.measure(whole.key) != whole.stop:
            raise NoObject("it is of another size")
        self._seen[whole.key] = None
