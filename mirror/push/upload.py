"""An upload, as its client knows it."""

import asyncio

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.reference import Repository
from mirror.push.course import Course, Follower
from mirror.sources.targets import Standing, Target


class Upload(Follower):
    """One of a client, at `position`; `least` is the registry's word (OCI-Chunk-Min-Length)."""

    def __init__(
        self, identity: str, repository: Repository, *, now: float, client: str | None = None,
        target: Target | None = None, standing: Standing | None = None,
    ) -> None:  # fmt: skip
        self.identity = identity
        self.repository = repository
        self.client = client
        self.target = target
        self.let_in = target  # the last that the registry has let in to push
        self.standing = standing  # of its own, while it follows nothing
        self.least = 0 if standing is None else standing.least
        self.position = 0
        self.followed: list[Course] = []
        self.since = now
        self.first = bytearray()  # bytes that are too few to compare
        self.turn = asyncio.Lock()  # pieces are taken one after another
        self.rest: tuple[Digest, int] | None = None  # what ends it, and where that began to come
        self.has_ended = False

    @property
    def is_placed(self) -> bool:
        """Whether what it follows has all of its bytes; before, `first` has.

        It may follow a course that has none of them: one that was begun for them on a full disk.
        """
        return bool(self.followed) and not self.first

    def follow(self, courses: list[Course]) -> None:
        """Follow these, and no others."""
        for course in self.followed:
            if course not in courses:
                course.followers.discard(self)
                course.go_on()
        for course in courses:
            course.followers.add(self)
        self.followed, self.is_settled = courses, len(courses) == 1

    def go_back(self, position: int) -> None:
        """What has come from there on comes once more."""
        self.position = position
        del self.first[position:]

    def guide(self) -> Course:
        """One that has all the bytes of it. Raises RegistryError: it was cancelled meanwhile."""
        if not self.followed:
            raise gone()
        return self.followed[0]


def gone() -> RegistryError:
    """What a client is told of an upload that it may have had."""
    return RegistryError(ErrorCode.BLOB_UPLOAD_UNKNOWN, "there is no such upload here (any more)")
