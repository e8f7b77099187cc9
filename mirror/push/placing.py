"""Whose bytes an upload brings: the course that it follows, or several, or one of its own.

What a client brings is compared with what is here of the same repository, from the first bytes that
are enough on; `following.py` decides by that.
"""

import asyncio
from weakref import WeakValueDictionary

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.reference import Repository
from mirror.push.course import Course, Means
from mirror.push.courses import Courses, translated
from mirror.push.following import Extend, Follow, decide
from mirror.push.upload import Upload, gone


class Placing:
    """Of all uploads."""

    def __init__(self, courses: Courses, means: Means) -> None:
        self._courses = courses
        self._means = means
        # Whose first bytes are being placed; it is gone once nobody's are.
        self._first_turns = WeakValueDictionary[Repository, asyncio.Lock]()

    async def place_first(self, upload: Upload, piece: bytes = b"") -> None:
        """Find a course for the first bytes of an upload, now that they are enough with `piece`.

        One after another, in a repository: whoever brings the same at the same moment is to find
        them there. Raises RegistryError; then they are still to be placed, and `piece` is not.
        """
        if upload.is_placed:
            return
        turn = self._first_turns.setdefault(upload.repository, asyncio.Lock())
        async with turn:
            await self.place(upload, 0, bytes(upload.first) + piece)
            upload.first.clear()

    async def place(self, upload: Upload, offset: int, piece: bytes) -> None:
        """See that a piece is in what the upload follows, or goes there. Raises RegistryError."""
        with translated():
            await self._find_place(upload, offset, piece)

    async def _find_place(self, upload: Upload, offset: int, piece: bytes) -> None:
        """Raises NoRoom."""
        while True:
            courses = upload.followed or self._courses.list_comparable(upload.repository)
            compared = [await course.compare(offset, piece) for course in courses]
            match decide(len(piece), compared):
                case Follow(kept) if courses:
                    left = [courses[place] for place in kept if not courses[place].is_dropped]
                    if not left:  # they have gone while others were compared
                        continue
                    self._follow(upload, left)
                    self._means.counts.spared(upload.repository.namespace, len(piece))
                    return
                case Extend(chosen, there):
                    course = courses[chosen]
                    await self._courses.make_room(course, len(piece) - there)
                    if await course.extend(offset + there, piece[there:], upload.identity):
                        self._follow(upload, [course])
                        self._means.counts.spared(upload.repository.namespace, there)
                        return
                case _:
                    await self.follow_own(upload, offset)
                    if not piece:
                        return

    def _follow(self, upload: Upload, courses: list[Course]) -> None:
        if upload.has_ended:  # it was cancelled meanwhile
            raise gone()
        if courses != upload.followed:
            upload.follow(courses)
            for course in courses:
                course.go_on(upload.target)

    async def follow_own(self, upload: Upload, length: int) -> Course:
        """Have it follow a course of its own, with so many bytes of what it has followed."""
        content = await self._courses.copy(length, upload.guide)
        standing, upload.standing = upload.standing, None
        own = self._courses.add(upload.repository, content, standing)
        own.leader = upload.identity
        if upload.has_ended:  # it was cancelled meanwhile
            await self._courses.drop(own)
            raise gone()
        upload.follow([own])  # at once: what nobody follows makes room for others
        await self._means.keep(own)
        if upload.has_ended:
            raise gone()
        own.go_on(upload.target)
        return own

    async def find_whole(self, upload: Upload, digest: Digest) -> Course:
        """The course that is all of the upload, and is what `digest` names.

        Raises:
            RegistryError: `DIGEST_INVALID`.
        """
        is_known = False
        for course in upload.followed:
            if course.size == upload.position and course.sealed == digest:
                return course
        for course in upload.followed:
            if course.size != upload.position or course.sealed or course.is_over:
                continue
            await self._prove(course, digest)
            is_known = True
            if course.size == upload.position and course.sealed in {None, digest}:
                return course
        course = await self.follow_own(upload, upload.position)
        if not is_known:
            await self._prove(course, digest)
        return course

    async def _prove(self, course: Course, digest: Digest) -> None:
        if not digest.matches(await course.content.hasher(digest.algorithm)):
            raise RegistryError(
                ErrorCode.DIGEST_INVALID, "the digest is not that of what was uploaded"
            )
