"""Damage: a blob that is not as it was recorded, or not what its digest says.

It is set aside (`quarantine/`), counted, logged in one line, and forgotten wherever there is a
copy; whoever asks for it next has it fetched again. Who reads it already keeps the open file.
"""

import errno
import logging
from collections.abc import Callable
from enum import Enum

from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.storage.changes import Changes
from mirror.storage.files import Files
from mirror.storage.hashing import HashingProcess, Pace
from mirror.storage.index import Index
from mirror.storage.states import States
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_LOST = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA}
"""What a disk, or a file system that has checksums, says of bytes that it cannot give back."""


class Finding(Enum):
    """What has come of a look at a blob."""

    RIGHT = "right"
    DAMAGED = "damaged"
    GONE = "gone"  # it has left meanwhile, or was replaced
    UNREADABLE = "unreadable"  # for a reason that says nothing of its content


class Damage:
    """Looks for it, and sets it aside. `dropped` is told of each blob that goes."""

    def __init__(
        self,
        files: Files,
        index: Index,
        states: States,
        changes: Changes,
        *,
        dropped: Callable[[Digest], None],
        metrics: Metrics,
    ) -> None:
        self._files = files
        self._index = index
        self._states = states
        self._changes = changes
        self._dropped = dropped
        self._metrics = metrics

    async def check(
        self, digest: Digest, size: int, *, hashing: HashingProcess, pace: Pace
    ) -> Finding:
        """Hash a blob that is on record at `size`; what is damaged is set aside."""
        try:
            before = await self._files.inode_of(digest)
            reason = await self._find_reason(digest, size, hashing, pace)
        except StoreError as error:
            _logger.warning("not scrubbed: %s", error, extra=fields(digest=digest))
            return Finding.UNREADABLE
        if reason is None:
            return Finding.RIGHT
        is_recorded = await self._index.find_size(digest) == size
        if not is_recorded or await self._files.inode_of(digest) != before:
            return Finding.GONE
        return Finding.DAMAGED if await self.set_aside(digest, reason) else Finding.GONE

    async def _find_reason(
        self, digest: Digest, size: int, hashing: HashingProcess, pace: Pace
    ) -> str | None:
        path = self._files.path_of(digest)
        try:
            found = await hashing.hash(str(path), digest.algorithm, pace)
        except FileNotFoundError:
            return "its file is missing"
        except OSError as error:
            if error.errno not in _LOST:
                raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
            return f"the disk cannot read it: {error.strerror}"
        if found.size != size:
            return "its file is of another size"
        if found.hexadecimal != digest.encoded:
            return "its content is not what its digest says"
        return None

    async def set_aside(self, digest: Digest, reason: str) -> bool:
        """A blob is damaged; False: it goes already, or is being replaced."""
        if self._states.find_change(digest) is not None:
            return False
        _logger.error(
            "a blob is damaged, and is set aside: %s", reason, extra=fields(digest=digest)
        )
        self._metrics.damaged_blobs.inc()
        self._changes.begin_leaving([digest])
        self._dropped(digest)
        try:
            await to_the_end(self._changes.finish_leaving([digest], is_damage=True))
        except StoreError as error:
            _logger.error(  # noqa: TRY400 - the message says it all
                "store: %s", error, extra=fields(digest=digest)
            )
        return True
