"""Uploads, as clients know them; and the courses that their bytes take.

    state        means                                             next
    begun        the client has a location, and no byte has come   following, ended
    following    its bytes are those of one course, or of several  following, ended
    ended        the registry has it, or nobody wants it           -

An upload begins with one at the registry, on the client's own authority: whoever may not push is
told so there. Where its bytes are those of a course in the same repository, it follows that
(`following`), and its own upload at the registry is given up. A client that starts over so sends
what is here already as fast as it can, and the registry is sent what it lacks.
"""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

from mirror.config import Push
from mirror.oci.digest import Digest
from mirror.oci.errors import (
    ErrorCode,
    Refused,
    RegistryError,
    StoreError,
    Unavailable,
)
from mirror.oci.reference import Repository
from mirror.push.content import Content, Spooled
from mirror.push.course import Course, Follower, Means
from mirror.push.courses import RETRY_AFTER, Courses, is_there_yet, translated
from mirror.push.lent import Lent
from mirror.push.placing import Placing
from mirror.push.remains import parse
from mirror.push.states import CourseState
from mirror.push.upload import Upload, gone
from mirror.sources.targets import Standing, Target
from mirror.storage.blocks import BLOCK
from mirror.storage.spools import Spool, Spools
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_TIDIED_EVERY = 10.0  # seconds
_QUIET = 60.0  # seconds without a request, before an upload makes place for its client's next one
_COMPARABLE = 2**16  # bytes; all that is packed by the same program begins with the same few
_MOST_UPLOADS = 4096  # of all clients; each has up to _COMPARABLE bytes in memory
_TOO_LARGE = 413
_TRUSTED = 0.9  # of `push.keep_for`: a clock that is wrong leaves a client the rest of it


class Uploads:
    """All of them. `courses` are theirs; `capacity` gives the bytes that the store may take.

    `wall` is in seconds since the epoch: only what an earlier process has left goes by it.
    """

    def __init__(
        self,
        spools: Spools,
        means: Means,
        settings: Push,
        *,
        capacity: Callable[[], int],
        wall: Callable[[], float],
    ) -> None:
        self._spools = spools
        self._means = means
        self._wall = wall
        self._settings = settings
        self._uploads: dict[str, Upload] = {}
        self.courses = Courses(spools, means, settings, capacity=capacity, let_go=self._let_go)
        self._beginning: Counter[str | None] = Counter()
        self._placing = Placing(self.courses, means)

    def __len__(self) -> int:
        return len(self._uploads)

    def change(self, settings: Push) -> None:
        """Go by these from now on."""
        self._settings = self.courses.settings = settings

    # What clients do

    @contextmanager
    def place(self, client: str | None) -> Iterator[None]:
        """Inside the block, a client begins one more: those that come at once are counted too.

        Raises:
            Unavailable: It has as many as one may (429).
        """
        self._require_place(client)
        self._beginning[client] += 1
        try:
            yield
        finally:
            self._beginning[client] -= 1
            self._beginning += Counter()  # forgets who has none

    def _require_place(self, client: str | None) -> None:
        theirs = [upload for upload in self._uploads.values() if upload.client == client]
        has_place = len(theirs) + self._beginning[client] < self._settings.max_uploads
        if has_place and len(self._uploads) + self._beginning.total() < _MOST_UPLOADS:
            return
        now, others = self._means.clock(), self._uploads.values()
        quiet = [
            it
            for it in (others if has_place else theirs)
            if not it.requests and now - it.since >= _QUIET
        ]
        if not quiet:
            raise Unavailable(
                "as many uploads are under way as push.max_uploads allows, or the mirror can bear",
                code=ErrorCode.TOOMANYREQUESTS, retry_after=RETRY_AFTER,
            )  # fmt: skip
        self._forget(min(quiet, key=lambda it: it.since))

    def begin(
        self, repository: Repository, target: Target, standing: Standing, client: str | None
    ) -> Upload:
        """One more, which the registry has begun with this standing."""
        upload = Upload(
            secrets.token_hex(16), repository,
            now=self._means.clock(), client=client, target=target, standing=standing,
        )  # fmt: skip
        self._uploads[upload.identity] = upload
        return upload

    def get(self, repository: Repository, identity: str) -> Upload:
        """One of a repository's. Raises RegistryError, `BLOB_UPLOAD_UNKNOWN`."""
        upload = self._uploads.get(identity)
        if upload is None or upload.repository != repository:
            raise gone()
        return upload

    async def let_in(self, upload: Upload, target: Target) -> None:
        """See that whoever goes on with an upload may push; before any of its bytes is taken.

        Upstream has let in who has begun it. Tokens are renewed, and some clients show nothing
        before they are asked to: another authorization is shown to upstream, as for a new upload.

        Raises:
            RegistryError: What the registry says to that.
        """
        if target == upload.let_in:
            return
        standing = await target.begin()
        if standing is not None:
            self._give_up(target, standing)
        upload.let_in = target

    async def begin_rest(self, upload: Upload, ending: Digest | None) -> None:
        """A request brings what is left, up to the end that has this digest; None: it does not say.

        Who brings that once more brings all of it, from where it began (PUT: RFC 9110, 9.2.2):
        containerd does, when the registry wants another token at the end; so do proxies and clients
        that were not answered. Who has asked meanwhile how far it is goes on from there.

        Raises:
            RegistryError: It has ended by the time that what was under way is over.
        """
        async with upload.turn:
            if upload.has_ended:
                raise gone()
            if ending is not None and upload.rest is not None and upload.rest[0] == ending:
                upload.go_back(upload.rest[1])
            upload.rest = None if ending is None else (ending, upload.position)

    @contextmanager
    def request(self, upload: Upload, target: Target) -> Iterator[None]:
        """Inside the block, a request of it is under way, on this authority."""
        upload.target = target
        upload.requests += 1
        try:
            for course in upload.followed:
                course.go_on(target)
            yield
        finally:
            upload.requests -= 1
            upload.since = self._means.clock()
            for course in upload.followed:
                course.touch()

    async def write(self, upload: Upload, offset: int, piece: bytes) -> None:
        """Take what follows, once there is no need to hold the client back.

        Raises:
            RegistryError: It does not follow; it is too much; the registry refuses it; or it can
                neither be kept nor sent on.
        """
        async with upload.turn:
            self._require_next(upload, offset, len(piece))
            await self._add(upload, piece)
        await self._keep_pace(upload)

    async def take(
        self, upload: Upload, offset: int, begun: bytes, connection: Lent,
        note: Callable[[int], object],
    ) -> None:  # fmt: skip
        """Take a body that has begun, and what is left of it off a connection, as it comes.

        `note` is told how many bytes came.

        Raises:
            RegistryError: As `write`.
            ConnectionError: The client has left before, or brings nothing.
        """
        whole = len(begun) + connection.left
        self._require_next(upload, offset, whole)
        upload.told = offset + whole
        try:
            if begun:
                await self.write(upload, offset, begun)
                offset += len(begun)
                note(len(begun))
            while connection.left:
                await connection.ready()
                async with upload.turn:
                    self._require_next(upload, offset, connection.left)
                    taken = await self._take_some(upload, connection)
                offset += taken
                note(taken)
                await self._keep_pace(upload)
        finally:
            upload.told = 0

    def _require_next(self, upload: Upload, offset: int, length: int) -> None:
        if upload.has_ended or offset != upload.position:
            raise RegistryError(
                ErrorCode.BLOB_UPLOAD_INVALID, f"the upload is at {upload.position}"
            )
        if offset + length > self._settings.max_blob_size:
            raise _too_large()

    async def _take_some(self, upload: Upload, connection: Lent) -> int:
        """What has come is written away at once, unless it may be here already."""
        match upload.followed:
            case [course] if course.takes_more(upload.position):
                most = min(connection.left, BLOCK)
                with translated():
                    await self.courses.make_room(course, most)
                    taken = await course.take(upload.position, connection, most, upload.identity)
                upload.position += taken
            case _:
                piece = connection.read()
                taken = len(piece)
                await self._add(upload, piece)
        return taken

    async def _add(self, upload: Upload, piece: bytes) -> None:
        """Take what follows. Raises RegistryError; then nothing of it is taken."""
        if upload.is_placed:
            await self._placing.place(upload, upload.position, piece)
        elif len(upload.first) + len(piece) < _COMPARABLE:
            upload.first += piece
        else:
            await self._placing.place_first(upload, piece)
        upload.position += len(piece)

    async def _keep_pace(self, upload: Upload) -> None:
        if upload.is_settled:
            for course in upload.followed:
                await course.keep_pace(upload.position)

    async def finish(self, upload: Upload, digest: Digest) -> None:
        """This is all of it: return when the registry has it. Raises RegistryError."""
        async with upload.turn:
            await self._placing.place_first(upload)
            try:
                course = await self._placing.find_whole(upload, digest)
            except RegistryError as error:
                if error.code is ErrorCode.DIGEST_INVALID:
                    await self.cancel(upload)
                raise
            if upload.has_ended:  # it was cancelled meanwhile
                raise gone()
            assert upload.target is not None  # noqa: S101 - a request is under way
            upload.follow([course])
            if not await is_there_yet(course, upload.target):
                course = await self._placing.follow_own(upload, upload.position)
            await course.finish(digest, upload.target)
        self._forget(upload)

    async def cancel(self, upload: Upload) -> None:
        """It is not wanted any more. Raises StoreError."""
        followed = upload.followed
        self._forget(upload)
        for course in followed:
            if not course.followers and course.state is not CourseState.DONE:
                await self.courses.drop(course)

    async def push_stored(
        self, repository: Repository, content: Content, digest: Digest, target: Target,
        standing: Standing,
    ) -> None:  # fmt: skip
        """Send a blob that is here; return when the registry has it. Raises RegistryError."""
        with ExitStack() as spare:
            spare.callback(content.close)
            spare.callback(self._give_up, target, standing)
            for course in self.courses.find(repository):
                if (
                    course.sealed != digest
                    or course.state is CourseState.FAILED
                    or course.is_dropped
                ):
                    continue  # also where that has come about while another was asked after
                async with self._following(course):
                    if await is_there_yet(course, target):
                        spare.close()
                        await course.finish(digest, target)
                        return
            spare.pop_all()
        course = self.courses.add(repository, content, standing)
        async with self._following(course):
            await course.finish(digest, target)

    @asynccontextmanager
    async def _following(self, course: Course) -> AsyncIterator[None]:
        """Have nobody drop it inside the block; after that it is not wanted, but by others."""
        waiting = Follower()
        waiting.requests = 1
        course.followers.add(waiting)
        try:
            yield
        finally:
            course.followers.discard(waiting)
            if not course.followers:
                await self.courses.drop(course)

    # Ends

    def _forget(self, upload: Upload) -> None:
        """It has ended; its courses go on without it."""
        upload.has_ended = True
        self._uploads.pop(upload.identity, None)
        upload.follow([])
        if upload.standing is not None and upload.target is not None:
            self._give_up(upload.target, upload.standing)
            upload.standing = None

    def _give_up(self, target: Target, standing: Standing) -> None:
        """Have the registry forget an upload that nothing has come of."""
        _ = self._means.tasks.create_task(target.cancel(standing), name="push")

    def _let_go(self, course: Course) -> None:
        """It is dropped: whoever has followed it has ended."""
        for upload in [it for it in course.followers if isinstance(it, Upload)]:
            self._forget(upload)

    async def tidy_forever(self) -> None:
        """Let go what nobody goes on with, every now and then."""
        while True:
            await asyncio.sleep(_TIDIED_EVERY)
            try:
                await self.tidy()
            except StoreError as error:
                _logger.warning("uploads not tidied: %s", error)

    async def tidy(self) -> None:
        """Let go what nobody goes on with. Raises StoreError."""
        now, keep_for = self._means.clock(), self._settings.keep_for
        for upload in [*self._uploads.values()]:
            if not upload.requests and now - upload.since >= keep_for:
                await self.cancel(upload)
        await self.courses.tidy(now)

    async def recover(self, is_wanted: Callable[[Repository], bool]) -> None:
        """Take up what an earlier process has left of repositories that are wanted.

        It is kept for what is left of `push.keep_for` since its last byte came.

        Raises:
            StoreError: The disk refuses.
        """
        for spool, record in await self._spools.find_all():
            left = parse(record)
            if left is None or not is_wanted(left.where):
                await spool.remove()
                spool.close()
                continue
            course = self.courses.add(left.where, Spooled(spool), left.standing, is_found=True)
            course.leader = left.upload
            course.since = self._means.clock() - await self._age(spool)
            upload = Upload(left.upload, left.where, now=course.since)
            upload.position, upload.least = spool.size, left.least
            upload.follow([course])
            self._uploads[upload.identity] = upload
            _logger.info(
                "an upload can go on", extra=fields(repository=left.where, bytes=spool.size)
            )

    async def _age(self, spool: Spool) -> float:
        """Seconds since the last byte of what was left, as far as clocks are trusted."""
        now = self._wall()
        age = now - await spool.written_at(now)
        return min(age, self._settings.keep_for * _TRUSTED)


def _too_large() -> Refused:
    message = "a blob larger than push.max_blob_size"
    return Refused(_TOO_LARGE, message, [{"code": ErrorCode.SIZE_INVALID, "message": message}])
