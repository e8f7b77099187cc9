"""The ports of the front: all that the process that decides and its workers may ask of each other.

A method stands here once. How it is asked is read from its signature, and what may be sent from
its annotations (`mirror.front.wire.interface`) :

    async def                                 asked and answered
    def -> AbstractAsyncContextManager        opened, and held until the caller is done with it
    def -> None                               told; nobody waits

A worker faces the network, and may be taken over: what it says is parsed at the door, and is never
more than a question. It names a repository, and not whose authority counts there.
"""

from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from io import FileIO
from socket import socket
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from mirror.aio.sealed import Bulk
from mirror.front.settings import Settings
from mirror.oci.digest import Digest, Subject
from mirror.oci.manifest import MAX_SIZE
from mirror.oci.ranges import MOST_RANGES, ByteRange
from mirror.oci.reference import Namespace, Reference, Repository
from mirror.oci.request import Page
from mirror.oci.token import TokenAnswer, TokenQuestion
from mirror.pull.answers import (
    BlobSize,
    ManifestAnswer,
    Outcome,
    Progress,
    ReferrersAnswer,
    TagsAnswer,
)
from mirror.pull.forget import Forgettable
from mirror.push.answers import Loan, PushedManifest, UploadState
from mirror.telemetry.asked import Entry
from mirror.telemetry.traffic import Sort, Tally

Authorization = Annotated[str, Meta(pattern=r"\A[\x20-\x7e]*\Z", max_length=2**16)] | None
"""What the client sent (RFC 9110, 11.4); it may become a header of ours, so it is printable."""

Ranges = Annotated[tuple[ByteRange, ...], Meta(max_length=MOST_RANGES)]
"""What a client asks for of a blob, in this order; empty: all of it."""

UploadName = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
"""What an upload is known by to its client."""

MediaType = Annotated[str, Meta(pattern=r"\A[\x21-\x7e]+/[\x20-\x7e]+\Z", max_length=512)]
ManifestContent = Annotated[bytes, Meta(max_length=MAX_SIZE)]

Number = Annotated[int, Meta(ge=0, lt=2**53)]
Position = Annotated[int, Meta(ge=0, le=2**63 - 1)]


connection: ContextVar[int] = ContextVar("connection", default=0)
"""In a worker: the number of the connection whose request is answered; 0 outside one. It goes with
each question, and tells the mirror's process on which client's share the answer is."""


class Lease(Struct, frozen=True, array_like=True):
    """An open blob in a worker's hands; until it is given back, it is not evicted.

    `content` is there for a small blob; else `file` and its `progress`; else it is streamed.
    `number` is what to ask for more by: of a file that grows (all leases of the same fill have the
    same number) or of a stream; 0 where there is no more. `size` in bytes, None if not known yet.
    `location`: there is nothing here, the client gets it from there.
    """

    size: int | None
    outcome: Outcome
    content: bytes | None = None
    file: FileIO | None = None
    progress: Progress | None = None
    number: Number = 0
    location: str | None = None

    def close(self) -> None:
        """Close the receiver's own file."""
        if self.file is not None:
            self.file.close()


class FaultElsewhere(Exception):
    """The other process has a fault, which it has noted itself."""


class Pulls(Protocol):
    """Pulls, answered by what decides. All of it may raise `Missing`, `Denied`, `Unavailable`.

    `authorization` is what the client sent; it matters for `access = "client"` upstreams only, and
    goes nowhere else. A repository of no configured upstream: RegistryError, `NAME_UNKNOWN`.
    """

    async def get_manifest(
        self, repository: Repository, reference: Reference, authorization: Authorization
    ) -> ManifestAnswer:
        """A manifest, by tag or digest."""

    def note_served(
        self, repository: Repository, digest: Digest, authorization: Authorization
    ) -> None:
        """A client has been given a manifest, and will soon ask for what it refers to."""

    async def can_serve(
        self, repository: Repository, digest: Digest, authorization: Authorization
    ) -> bool:
        """Whether all that a manifest names can be had here, which a client has been given."""

    async def head_blob(
        self, repository: Repository, digest: Digest, authorization: Authorization
    ) -> BlobSize:
        """What is known of a blob; it is not transferred."""

    async def list_tags(
        self, repository: Repository, page: Page, authorization: Authorization
    ) -> TagsAnswer:
        """A page of tags."""

    async def list_referrers(
        self,
        repository: Repository,
        subject: Subject,
        artifact_type: str | None,
        page: Page,
        authorization: Authorization,
    ) -> ReferrersAnswer:
        """What refers to a digest, of this type alone where one is given."""

    async def check_login(self, upstream: Namespace, authorization: Authorization) -> None:
        """Return where that upstream lets a client in with what it sent.

        One whose access is not the clients' own lets everybody in.
        """

    async def ask_token_server(
        self, upstream: Namespace, question: TokenQuestion, authorization: Authorization
    ) -> TokenAnswer:
        """What a token server that upstream has named says to a client (`relay_tokens`)."""

    async def list_repositories(self, page: Page) -> tuple[list[str], dict[str, str] | None]:
        """What is cached, and the query of the next page."""


class Pushes(Protocol):
    """Pushes, answered by what decides. All of it raises as `Pulls`, and `Refused`."""

    async def find_pushed_blob(
        self, repository: Repository, digest: Digest, authorization: Authorization
    ) -> Number | None:
        """The size of a blob that the registry has in this repository, by its own word."""

    async def begin_upload(
        self,
        repository: Repository,
        mount: Digest | None,
        source: Repository | None,
        authorization: Authorization,
    ) -> UploadState | None:
        """Begin an upload; None: what was to be mounted is there."""

    async def get_upload(
        self, repository: Repository, identity: UploadName, authorization: Authorization
    ) -> UploadState:
        """How far an upload has come."""

    def open_upload(
        self,
        repository: Repository,
        identity: UploadName,
        authorization: Authorization,
        ending: Digest | None,
    ) -> AbstractAsyncContextManager[UploadState]:
        """Go on with an upload inside the block.

        `ending` is what a request that brings all of the rest says that it ends with: brought once
        more, that begins where it has begun before, as the answer says.
        """

    async def write_upload(
        self, repository: Repository, identity: UploadName, offset: Position, piece: Bulk
    ) -> None:
        """Take what follows in an upload that is open; answered when there is reason for more."""

    async def take_upload(
        self, repository: Repository, identity: UploadName, offset: Position, begun: Bulk,
        rest: Loan,
    ) -> Position:  # fmt: skip
        """Take what follows in an upload that is open; the rest off a client's connection.

        How many bytes came: fewer than are lent, where the client has left or brings nothing.
        """

    async def finish_upload(
        self, repository: Repository, identity: UploadName, digest: Digest
    ) -> None:
        """An upload that is open is all there: answered when the registry has it."""

    async def cancel_upload(
        self, repository: Repository, identity: UploadName, authorization: Authorization
    ) -> None:
        """An upload is not wanted any more."""

    async def push_manifest(
        self,
        repository: Repository,
        reference: Reference,
        media_type: MediaType,
        content: ManifestContent,
        authorization: Authorization,
    ) -> PushedManifest:
        """Push a manifest, as it is."""


class Leases(Protocol):
    """Blobs, leased to one worker; raises as `Pulls`."""

    def open_blob(
        self, repository: Repository, digest: Digest, authorization: Authorization, ranges: Ranges
    ) -> AbstractAsyncContextManager[Lease]:
        """A blob, open for reading inside the block."""

    def open_rest(
        self, repository: Repository, digest: Digest, authorization: Authorization
    ) -> AbstractAsyncContextManager[Lease]:
        """A stream of what is to come of a blob whose file comes no farther (StoreError)."""

    async def follow(self, number: Number, seen: Progress) -> Progress:
        """How far a leased file has come, once that is another progress than `seen`.

        Who follows it reads all of it.
        """

    async def reach(self, number: Number, position: Position, stop: Position) -> Position:
        """Up to where a range that ends at `stop` may have a leased file, from `position` on.

        Answered once that is beyond `position`; its bytes come before others.
        """

    async def next_chunk(
        self, number: Number, start: Position, stop: Position | None
    ) -> bytes | None:
        """What follows in a leased stream, read from `start` to `stop`; None at its end."""


class Clients(Protocol):
    """Connections, given to one worker."""

    def note_closed(self, number: Number) -> None:
        """The connection that was given under this number has ended."""


class Front(Pulls, Pushes, Leases, Clients, Protocol):
    """All that a worker may ask."""


class Report(Struct, frozen=True, array_like=True):
    """What a worker tells of its work since it was last asked."""

    traffic: list[tuple[Sort, Tally]]
    used: set[Digest]  # served from its cache
    faults: dict[str, Number]  # how many, by task
    asked: list[Entry]


class Worker(Protocol):
    """All that a worker may be asked."""

    async def start(self, settings: Settings, last_good: dict[str, bytes]) -> None:
        """Get ready to serve.

        `last_good`: what certificates and passwords were when they last made sense (by the setting
        that names the file), in case they do not now; empty if they never have.

        Raises:
            UnusableFile: A file that the configuration names makes no sense.
        """

    async def reload(self, settings: Settings) -> list[str]:
        """Take up what has changed in the settings, and read certificates and passwords anew.

        Connections go on; certificates are for whoever connects from now on. What cannot be used
        stays as it was; gives what is wrong with it.
        """

    def connect(self, connection: socket, number: Number) -> None:
        """Serve a client; `Clients.note_closed` is told the number when it has left."""

    def forget(self, what: Forgettable) -> None:
        """Drop what is remembered of it, and do not keep answers that are on their way."""

    async def report(self) -> Report:
        """What there is to count."""

    async def drain(self) -> None:
        """Let responses finish, within `server.drain_timeout`; then close every connection."""
