"""Opening blobs for reading: once for all who ask meanwhile, and only what is as it should be.

A file of another size than is on record is damaged, also where it is open already. What was found
on disk (`adoption`), and never proved since, is hashed first: who asks waits for that, once in the
blob's life.
"""

import os
from collections.abc import Callable

from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.storage.adoption import Adoption
from mirror.storage.changes import close, over
from mirror.storage.damage import Damage
from mirror.storage.errors import translated
from mirror.storage.files import Files, SizedFile
from mirror.storage.index import DAY, Index
from mirror.storage.open_files import BlobFile, OpenFiles, Opening
from mirror.storage.states import States

OTHER_SIZE = "its file is missing, or of another size"
OTHER_CONTENT = "its content is not what its digest says"


class Openings:
    """Opens blobs. `clock` in seconds since the epoch."""

    def __init__(
        self,
        *,
        files: Files,
        opened: OpenFiles,
        index: Index,
        states: States,
        adoption: Adoption,
        damage: Damage,
        clock: Callable[[], float],
    ) -> None:
        self._files = files
        self._opened = opened
        self._index = index
        self._states = states
        self._adoption = adoption
        self._damage = damage
        self._clock = clock

    async def reuse(self, digest: Digest) -> BlobFile | None:
        """A blob whose file is open already, if it still is of its size; nothing is waited for.

        Else it is set aside: somebody has cut it, or added to it, where it stands.

        Raises:
            StoreError: The disk does not say.
        """
        blob = self._opened.take(digest)
        if blob is None:
            return None
        try:
            with translated():
                is_whole = os.fstat(blob.file.fileno()).st_size == blob.size
        except StoreError:
            blob.close()
            raise
        if is_whole:
            return blob
        blob.close()
        await self._damage.set_aside(digest, OTHER_SIZE)
        return None

    async def open(self, digest: Digest) -> BlobFile | None:
        """Open a blob, or join who is at it; None where it is not here, or damaged."""
        while not self._states.is_leaving(digest):
            blob = self._opened.take(digest)  # somebody else's opening may have ended meanwhile
            if blob is not None:
                return blob
            opening = self._opened.find_opening(digest)
            if opening is None:
                opening = self._opened.begin_opening(digest)
                blob = await self._try_to_open(opening)
            else:
                await over(opening)
                blob = self._opened.take(digest)
            if blob is not None or opening.has_outcome:
                return blob
        return None

    async def _try_to_open(self, opening: Opening) -> BlobFile | None:
        digest, blob, damage = opening.digest, None, None
        has_outcome = False
        try:
            await self._adoption.look_for([digest])
            known = await self._index.find(digest)
            if known is not None:
                blob, damage = await self._open_as_recorded(digest, known)
            has_outcome = True
        finally:
            is_so = self._opened.end_opening(opening, blob, has_outcome=has_outcome)
            if blob is not None and not is_so:
                blob.file.close()
        if not is_so:
            return None
        if damage is not None:
            await self._damage.set_aside(digest, damage)
        return blob

    async def _open_as_recorded(
        self, digest: Digest, known: tuple[int, bool]
    ) -> tuple[BlobFile | None, str | None]:
        """The open blob, or what is wrong with it."""
        size, is_proved = known
        file = await self._files.open(digest)
        if file is None:
            return None, OTHER_SIZE
        damage: str | None = OTHER_SIZE
        try:
            if file.size == size:
                damage = None if is_proved else await to_the_end(self._find_damage(file, digest))
        except BaseException:
            file.close()
            raise
        if damage is None:
            return BlobFile(digest, file, size, self._release), None
        file.close()
        return None, damage

    async def _find_damage(self, file: SizedFile, digest: Digest) -> str | None:
        """Prove what was found on disk. It goes on when who asked has left: others will ask."""
        if not await self._files.is_what_it_says(file, digest):
            return OTHER_CONTENT
        await self._index.record_proved([digest], on=int(self._clock() // DAY))
        return None

    def _release(self, blob: BlobFile) -> None:
        close(self._opened.release(blob))
