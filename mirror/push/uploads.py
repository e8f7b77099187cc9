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
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from mirror.oci.digest import Digest
from mirror.oci.errors import (
    ErrorCode,
    Missing,
    Refused,
    RegistryError,
    StoreError,
    Unavailable,
)
from mirror.oci.reference import Repository
from mirror.push import remains
from mirror.push.caution import Caution
from mirror.push.content import Spooled, read_head
from mirror.push.course import Course, CourseState, Follower, Means
from mirror.push.following import Extend, Follow, decide
from mirror.sources.targets import Standing, Target
from mirror.storage.errors import NoRoom
from mirror.storage.spools import Spools
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_TIDIED_EVERY = 10.0  # seconds
_DONE_FOR = 60.0  # seconds for which who pushes the same a moment later shares what is done
_QUIET = 60.0  # seconds without a request, before an upload makes place for its client's next one
_COMPARED = 64  # courses that the first bytes of an upload are compared with
_COPIED = 2**20  # bytes at a time
_RETRY_AFTER = 30.0  # seconds
_FULL = 507  # RFC 4918, 11.5
_TOO_LARGE = 413


class Upload(Follower):
    """One of a client, at `position`; `least` is the registry's word (OCI-Chunk-Min-Length)."""

    def __init__(
        self, identity: str, repository: Repository, client: str | None, target: Target | None,
        standing: Standing | None, now: float,
    ) -> None:  # fmt: skip
        self.identity = identity
        self.repository = repository
        self.client = client
        self.target = target
        self.standing = standing  # of its own, while it follows nothing
        self.least = 0 if standing is None else standing.least
        self.position = 0
        self.followed: list[Course] = []
        self.since = now
        self.requests = 0  # under way
        self.turn = asyncio.Lock()  # pieces are taken one after another
        self.has_ended = False

    @property
    def is_active(self) -> bool:  # type: ignore[override]  # of requests
        """Whether a request of its is under way."""
        return self.requests > 0

    def follow(self, courses: list[Course]) -> None:
        """Follow these, and no others."""
        for course in self.followed:
            if course not in courses:
                course.followers.discard(self)
                course.go_on()
        for course in courses:
            course.followers.add(self)
        self.followed = courses
