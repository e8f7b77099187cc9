"""What is put down of a course beside its bytes, so that it can go on after the mirror has died.

No authorization is: whoever goes on with it shows its own. The location of the registry's upload
may hold secrets; the file is the mirror's user's alone.
"""

import logging

import msgspec
from msgspec import Struct

from mirror.oci.errors import RegistryError, StoreError
from mirror.oci.reference import Repository, parse_repository
from mirror.push.content import Spooled
from mirror.push.course import Course
from mirror.sources.targets import Standing
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)


class Remains(Struct, frozen=True, forbid_unknown_fields=True):
    """Of one course; `upload` is what the client that has brought the last bytes knows it by."""

    upstream: str
    repository: str
    upload: str
    location: str | None = None
    offset: int = 0
    least: int = 0

    @property
    def where(self) -> Repository:
        """The repository that it is pushed to."""
        return Repository(self.upstream, self.repository)

    @property
    def standing(self) -> Standing | None:
        """Where it stands with the registry."""
        return None if self.location is None else Standing(self.location, self.offset, self.least)


async def keep(course: Course) -> None:
    """Put down how it stands. Where the disk refuses, only a mirror that starts anew lacks it."""
    assert isinstance(course.content, Spooled)  # noqa: S101 - what is a blob is found anew
    there = course.standing
    remains = Remains(
        course.repository.namespace,
        course.repository.name,
        course.leader,
        None if there is None else there.location,
        0 if there is None else there.offset,
        0 if there is None else there.least,
    )
    try:
        await course.content.spool.note(msgspec.json.encode(remains))
    except StoreError as error:
        _logger.warning("how a push stands is not put down: %s", error, extra=fields())


def parse(record: bytes) -> Remains | None:
    """What was put down; None for what a power cut has left of it."""
    try:
        remains = msgspec.json.decode(record, type=Remains)
        parse_repository(remains.repository)
    except (msgspec.DecodeError, RegistryError):
        return None
    return remains
