"""Every question of a push that a client may ask, and the one way to each answer."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress

from mirror.aio.sealed import Bulk
from mirror.aio.slots import client
from mirror.config import Upstream
from mirror.oci.digest import Digest
from mirror.oci.errors import Denied, ErrorCode, Refused, RegistryError, Unavailable
from mirror.oci.manifest import Manifest
from mirror.oci.reference import Reference, Repository
from mirror.oci.repositories import Selection
from mirror.push.answers import Loan, PushedManifest, UploadState
from mirror.push.content import Stored
from mirror.push.lent import Lent
from mirror.push.recording import Recording
from mirror.push.turns import Turns
from mirror.push.upload import Upload
from mirror.push.uploads import Uploads
from mirror.sources.registry.registry import Registry
from mirror.sources.targets import Standing, Target
from mirror.storage.ports import Storage
from mirror.telemetry.log import fields
from mirror.telemetry.push_metrics import PushCounts, PushKind, PushOutcome

_logger = logging.getLogger(__name__)

_OUTCOMES: tuple[tuple[type[Exception], PushOutcome], ...] = (
    (Denied, PushOutcome.DENIED),
    (Unavailable, PushOutcome.UNAVAILABLE),
    (RegistryError, PushOutcome.REFUSED),
)

MayRead = Callable[[Repository, Digest, str | None], Awaitable[bool]]
"""Whether who shows this authorization may have a digest of a repository, without a transfer."""


class Pushing:
    """Answers pushes. All of it may raise RegistryError, in upstream's own words where it has any.

    `authorization` is what the client sent; it counts where `push = "client"`, and goes nowhere
    else. As for pulls, what asks faces the network, and is believed nothing but its question.
    """

    def __init__(
        self,
        uploads: Uploads,
        recording: Recording,
        store: Storage,
        *,
        registries: Mapping[str, Registry],
        upstreams: Mapping[str, Upstream],
        may_read: MayRead,
        counts: PushCounts,
    ) -> None:
        self._uploads = uploads
        self._recording = recording
        self._store = store
        self._registries = registries
        self._upstreams = upstreams
        self._may_read = may_read
        self._counts = counts
        self._turns = Turns()
        self._open = set[str]()  # upstreams that take pushes of who shows nothing

    async def find_pushed_blob(
        self, repository: Repository, digest: Digest, authorization: str | None
    ) -> int | None:
        """The size of a blob that the registry has in this repository, by its own word.

        Raises:
            Denied: Nobody may push, or is known to be let in to push without showing anything.
        """
        target = self._target(repository, authorization)
        if self._shows_nothing(repository, authorization) and (
            repository.namespace not in self._open
        ):
            await self._claim_openly(repository, digest, target)
            raise Denied(ErrorCode.DENIED, "who shows nothing is not known to push there")
        with self._counted(repository, PushKind.BLOB):
            size = await target.find_blob(digest)
        if size is not None:
            await self._uploads.courses.claim(repository, digest, size, target)
        return size

    async def _claim_openly(self, repository: Repository, digest: Digest, target: Target) -> None:
        """The same for who shows nothing, after a restart: it may have pushed before.

        Its answer is the one for pulls, which says of what is at the registry that it is there.
        """
        if not self._uploads.courses.may_claim(repository):
            return
        blob = await self._store.open_blob(digest)
        if blob is not None:
            blob.close()
            return
        with suppress(RegistryError):
            size = await target.find_blob(digest)
            if size is not None:
                await self._uploads.courses.claim(repository, digest, size, target)

    async def begin_upload(
        self,
        repository: Repository,
        mount: Digest | None,
        source: Repository | None,
        authorization: str | None,
    ) -> UploadState | None:
        """Begin an upload; None: what was to be mounted is there."""
        target = self._target(repository, authorization)
        with self._counted(repository, PushKind.BEGIN), self._uploads.place(client.get()):
            if source is not None and not self._is_served(source):
                mount = source = None
            is_same = source is None or source.namespace == repository.namespace
            name = source.name if source is not None and is_same else None
            with self._noting_open(repository, authorization):
                standing = await target.begin(mount=mount if is_same else None, source=name)
            if standing is not None and mount is not None and source is not None:
                standing = await self._push_from_here(
                    repository, mount, source, authorization, target=target, standing=standing
                )
            if standing is None:
                return None
            return _state(self._uploads.begin(repository, target, standing, client.get()))

    async def get_upload(
        self, repository: Repository, identity: str, authorization: str | None
    ) -> UploadState:
        """How far an upload has come."""
        target = self._target(repository, authorization)
        with self._counted(repository, PushKind.STATUS):
            upload = self._uploads.get(repository, identity)
            await self._uploads.let_in(upload, target)
            upload.rest = None
            return _state(upload)

    @asynccontextmanager
    async def open_upload(
        self,
        repository: Repository,
        identity: str,
        authorization: str | None,
        ending: Digest | None,
    ) -> AsyncIterator[UploadState]:
        """Go on with an upload inside the block. `ending`: of the rest, which is brought whole."""
        target = self._target(repository, authorization)
        with self._counted(repository, PushKind.BYTES):
            upload = self._uploads.get(repository, identity)
            await self._uploads.let_in(upload, target)
            await self._uploads.begin_rest(upload, ending)
        with self._uploads.request(upload, target):
            yield _state(upload)

    async def write_upload(
        self, repository: Repository, identity: str, offset: int, piece: Bulk
    ) -> None:
        """Take what follows in an upload that is open, once there is reason to want more."""
        upload = self._find_open(repository, identity)
        with self._noting_refusals(repository):
            await self._uploads.write(upload, offset, piece.whole())
        self._counts.received(repository.namespace, piece.size)

    async def take_upload(
        self, repository: Repository, identity: str, offset: int, begun: Bulk, rest: Loan
    ) -> int:
        """Take what follows in an upload that is open; the rest off a client's connection.

        How many bytes came: fewer than are lent, where the client has left or brings nothing.
        """
        taken = 0

        def note(size: int) -> None:
            nonlocal taken
            taken += size
            self._counts.received(repository.namespace, size)

        with closing(Lent(rest.connection, rest.length, patience=rest.patience)) as lent:
            upload = self._find_open(repository, identity)
            with suppress(ConnectionError), self._noting_refusals(repository):
                await self._uploads.take(upload, offset, begun.whole(), lent, note)
        return taken

    async def finish_upload(self, repository: Repository, identity: str, digest: Digest) -> None:
        """An upload that is open is all there: return when the registry has it."""
        with self._counted(repository, PushKind.FINISH):
            await self._uploads.finish(self._find_open(repository, identity), digest)

    async def cancel_upload(
        self, repository: Repository, identity: str, authorization: str | None
    ) -> None:
        """An upload is not wanted any more."""
        target = self._target(repository, authorization)
        with self._counted(repository, PushKind.CANCEL):
            upload = self._uploads.get(repository, identity)
            await self._uploads.let_in(upload, target)
            await self._uploads.cancel(upload)

    async def push_manifest(
        self,
        repository: Repository,
        reference: Reference,
        media_type: str,
        content: bytes,
        authorization: str | None,
    ) -> PushedManifest:
        """Push a manifest, as it is."""
        target = self._target(repository, authorization)
        with self._counted(repository, PushKind.MANIFEST):
            if isinstance(reference, Digest) and not reference.names(content):
                raise RegistryError(
                    ErrorCode.DIGEST_INVALID, "the digest is not that of the manifest"
                )
            with self._turns.taking((repository, reference)) as turn:
                with self._noting_open(repository, authorization):
                    pushed = await target.put_manifest(reference, media_type, content)
                manifest = Manifest(pushed.digest, media_type, content)
                await self._recording.note_manifest(
                    repository, reference, manifest, is_last=turn.is_alone
                )
            return PushedManifest(pushed.digest, pushed.subject)

    async def _push_from_here(
        self,
        repository: Repository,
        digest: Digest,
        source: Repository,
        authorization: str | None,
        *,
        target: Target,
        standing: Standing,
    ) -> Standing | None:
        """Send from this disk what upstream would not mount; else the standing for the client.

        Raises:
            RegistryError: What the registry says to that.
        """
        # What it shows is for the registry that it pushes to, and for no other.
        shown = authorization if source.namespace == repository.namespace else None
        if not await self._may_read(source, digest, shown):
            return standing
        blob = await self._store.open_blob(digest)
        if blob is None:
            return standing
        content = Stored(self._store, blob)
        try:
            await self._uploads.push_stored(repository, content, digest, target, standing)
        except Unavailable as error:
            _logger.info(
                "a blob that is here could not be pushed: the client sends it: %s", error,
                extra=fields(digest=digest, repository=repository),
            )  # fmt: skip
            return await target.begin()
        return None

    def _find_open(self, repository: Repository, identity: str) -> Upload:
        upload = self._uploads.get(repository, identity)
        if not upload.requests:
            raise RegistryError(ErrorCode.BLOB_UPLOAD_INVALID, "the upload is not open")
        return upload

    @contextmanager
    def _noting_refusals(self, repository: Repository) -> Iterator[None]:
        """Bytes are counted as such; a request that brings them, where they are refused."""
        try:
            yield
        except RegistryError as error:
            self._counts.answered(repository.namespace, PushKind.BYTES, _outcome_of(error))
            raise

    def _is_served(self, source: Repository) -> bool:
        """Whether anybody may have anything of it here; what asks should have known."""
        settings = self._upstreams.get(source.namespace)
        return settings is not None and source.name in settings.served

    def _target(self, repository: Repository, authorization: str | None) -> Target:
        """Where it goes, and on whose authority.

        Raises:
            RegistryError, Denied: Nothing may be pushed there by way of this mirror.
        """
        settings = self._upstreams.get(repository.namespace)
        if settings is None:
            raise RegistryError(
                ErrorCode.NAME_UNKNOWN, "this mirror is not configured for that registry"
            )
        allowed = settings.pushed_to
        if allowed is None:
            raise RegistryError(ErrorCode.UNSUPPORTED, "pushes do not go through this mirror")
        settings.served.require(repository.name)
        require_pushable(allowed, repository.name)
        own = None if settings.push == "mirror" else authorization or ""
        return self._registries[repository.namespace].target(repository, own)

    def _shows_nothing(self, repository: Repository, authorization: str | None) -> bool:
        """Whether it is up to a registry that is open to everybody."""
        settings = self._upstreams.get(repository.namespace)
        return authorization is None and settings is not None and settings.push == "client"

    @contextmanager
    def _noting_open(self, repository: Repository, authorization: str | None) -> Iterator[None]:
        """The registry is asked to take something: whether it lets in who shows nothing.

        By its own word alone: what the mirror refuses says nothing of that, nor does 404, which
        some say to who may not know what is there.
        """
        is_let_in = False
        try:
            yield
            is_let_in = True
        except Refused:
            is_let_in = True
            raise
        finally:
            if is_let_in and self._shows_nothing(repository, authorization):
                self._open.add(repository.namespace)

    @contextmanager
    def _counted(self, repository: Repository, kind: PushKind) -> Iterator[None]:
        upstream, outcome = repository.namespace, PushOutcome.FAILED
        try:
            yield
            outcome = PushOutcome.DONE
        except RegistryError as error:
            outcome = _outcome_of(error)
            raise
        finally:
            self._counts.answered(upstream, kind, outcome)


def require_pushable(allowed: Selection, name: str) -> None:
    """See that a repository may be pushed to. Raises Denied."""
    if name not in allowed:
        raise Denied(
            ErrorCode.DENIED, "this mirror is configured not to take pushes to this repository"
        )


def _outcome_of(error: RegistryError) -> PushOutcome:
    return next(it for kind, it in _OUTCOMES if isinstance(error, kind))


def _state(upload: Upload) -> UploadState:
    return UploadState(upload.identity, upload.position, upload.least)
