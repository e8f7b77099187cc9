"""What a mirror has learnt and not told the others yet: on its own disk, in that order.

It is told within a moment, and waits here while the shared database is away, over restarts too. Its
room is bounded: what is told too late may be lost, and is learnt anew by whoever needs it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from mirror.aio.waiting import to_the_end
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.sqlite import Database, Schema, Statement
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_SCHEMA = Schema(
    name="list of what is to be told",
    application_id=0x6D697275,  # "miru"
    package="mirror.records",
    scripts=("untold.sql",),
    loss="others learn it anew; removals and pins that they were not told are to be made again",
)

_MOST = 64 * 2**20  # bytes of entries
_AT_A_TIME = 4 * 2**20  # bytes of entries that are told together
_ENTRIES = 200
_OVERHEAD = 64  # bytes that an entry costs beyond itself
_LEARNT_ANEW = "substr(entry, 3, 3) NOT IN (x'6e6f20', x'70696e')"
"""Neither "no ...", what is no longer so, nor "pin": the tag follows two bytes of MessagePack."""


class LinkSaid(Struct, frozen=True, tag="link", array_like=True):
    """Upstream has confirmed a link; `said_at` by this mirror's clock (None: in an older one)."""

    repository: Repository
    digest: Digest
    size: int
    said_at: float | None = None


class ManifestSaid(Struct, frozen=True, tag="manifest", array_like=True):
    """Upstream has confirmed a manifest: (digest, size, is foreign) of what it names.

    `said_at` as in `LinkSaid`.
    """

    repository: Repository
    digest: Digest
    size: int
    children: tuple[tuple[Digest, int, bool], ...]
    sent_as: str | None
    said_at: float | None = None


class SentSaid(Struct, frozen=True, tag="sent", array_like=True):
    """An upstream has sent bytes."""

    upstream: str
    digest: Digest
    media_type: str | None


class ContentSaid(Struct, frozen=True, tag="content", array_like=True):
    """A manifest's own bytes, proved."""

    digest: Digest
    content: bytes


class TagSaid(Struct, frozen=True, tag="tag", array_like=True):
    """Upstream has said what a tag means; `checked_at` by this mirror's clock."""

    repository: Repository
    tag: str
    digest: Digest
    checked_at: float
    is_fallback: bool
    is_imported: bool
    told_by: str


class ReferrersSaid(Struct, frozen=True, tag="referrers", array_like=True):
    """Upstream has said what refers to a digest; `checked_at` by this mirror's clock."""

    repository: Repository
    digest: Digest
    content: bytes
    checked_at: float
    is_imported: bool


class LinksGone(Struct, frozen=True, tag="no links", array_like=True):
    """The repository is not known any more to have these."""

    repository: Repository
    digests: tuple[Digest, ...]


class TagGone(Struct, frozen=True, tag="no tag", array_like=True):
    """A tag is to be asked for anew."""

    repository: Repository
    tag: str


class ReferrersGone(Struct, frozen=True, tag="no referrers", array_like=True):
    """What refers to a digest is to be asked for anew."""

    repository: Repository
    digest: Digest


class Pinned(Struct, frozen=True, tag="pin", array_like=True):
    """An operator has pinned an image."""

    image: str
    platforms: tuple[str, ...]
    refresh: float


class Unpinned(Struct, frozen=True, tag="no pin", array_like=True):
    """An operator has pinned it no longer."""

    image: str


Entry = (
    LinkSaid | ManifestSaid | SentSaid | ContentSaid | TagSaid | ReferrersSaid | LinksGone
    | TagGone | ReferrersGone | Pinned | Unpinned
)  # fmt: skip

_DECODER: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
_IS_DURABLE = (LinksGone, TagGone, ReferrersGone, Pinned, Unpinned)
"""What somebody has decided, and was told that it is done: no question finds it out again."""


class Untold:
    """The list, and the few things that a mirror remembers of the others. Use `Untold.open`."""

    def __init__(self, database: Database, *, size: int, count: int, most: int) -> None:
        self._database = database
        self._most = most
        self._size = size
        self._sizes: dict[int, int] = {}  # of the entries that were last told of
        self._added = 0  # so often something was
        self.count = count
        self.lost = 0  # entries that had to go untold
        self.more = asyncio.Event()  # there is something
        self._dropping = asyncio.Lock()  # so that several do not drop what one has to
        self._nothing = asyncio.Event()
        self._nothing.set()

    @classmethod
    @asynccontextmanager
    async def open(cls, root: Path, *, most: int = _MOST) -> AsyncIterator["Untold"]:
        """Open the list in `root`; of at most so many bytes. Raises StoreError."""
        async with Database.open(root / "untold.sqlite3", _SCHEMA) as database:
            untold = cls(database, size=0, count=0, most=most)
            await untold._measure()
            if untold.count:
                untold._note_more()
            yield untold

    async def add(self, entry: Entry) -> None:
        """Have it told, over a power cut, too, where nobody would learn it anew.

        Raises StoreError.
        """
        encoded = msgspec.msgpack.encode(entry)
        adding = Statement("INSERT INTO untold (entry) VALUES (?)", [(encoded,)])
        is_durable = isinstance(entry, _IS_DURABLE)
        try:
            await to_the_end(self._database.write(adding, is_durable=is_durable))
        finally:  # who asked for it may have left; it is there
            self.count += 1
            self._size += len(encoded) + _OVERHEAD
            self._note_more()
        if self._size > self._most:
            async with self._dropping:
                await self._drop_oldest()

    async def first(self) -> list[tuple[int, Entry]]:
        """The oldest entries, as many as are told together, with their numbers.

        Raises StoreError.
        """
        found: list[tuple[int, Entry]] = []
        added = self._added
        rows = await self._database.page(
            "SELECT id, entry FROM (SELECT id, entry, sum(length(entry)) OVER (ORDER BY id)"
            "  AS total FROM (SELECT id, entry FROM untold ORDER BY id LIMIT ?))"
            " WHERE total - length(entry) < ? ORDER BY id",
            (_ENTRIES, _AT_A_TIME),
            lambda number, entry: (int(number), bytes(entry)),
        )
        self._sizes = {number: len(entry) + _OVERHEAD for number, entry in rows}
        unreadable: list[int] = []
        for number, encoded in rows:
            try:
                found.append((number, _DECODER.decode(encoded)))
            except msgspec.DecodeError:  # by a newer mirror, that ran here once
                unreadable.append(number)
        if unreadable:
            await self.remove(unreadable)
        if not rows and self._added == added:  # else something has come since it was looked for
            self.more.clear()
            self._nothing.set()
            self.count = self._size = 0
        return found

    async def wait_told(self, within: float) -> None:
        """Return when all is told that was added, or after so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._nothing.wait()

    def _note_more(self) -> None:
        self._added += 1
        self._nothing.clear()
        self.more.set()

    async def remove(self, numbers: Sequence[int]) -> None:
        """These are told. Raises StoreError."""
        await self._database.write(
            Statement("DELETE FROM untold WHERE id = ?", [(number,) for number in numbers]),
            is_durable=False,
        )
        self.count = max(0, self.count - len(numbers))
        self._size -= sum(self._sizes.pop(number, 0) for number in numbers)

    async def recall(self, name: str) -> str | None:
        """What is remembered under a name. Raises StoreError."""
        return await self._database.first("SELECT value FROM known WHERE name = ?", (name,), str)

    async def remember(self, name: str, value: str) -> None:
        """Remember it over restarts. Raises StoreError."""
        await self._database.write(
            Statement("INSERT OR REPLACE INTO known VALUES (?, ?)", [(name, value)])
        )

    async def forget_everything(self) -> None:
        """Begin anew: with whomever the mirror belongs to next. Raises StoreError."""
        await self._database.write(
            Statement("DELETE FROM known", [()]), Statement("DELETE FROM untold", [()])
        )
        self.count = self._size = 0

    async def _drop_oldest(self) -> None:
        """A tenth of it goes, and again; what nobody would learn anew goes last."""
        if not self.lost and self._size > self._most:
            _logger.warning(
                "too much is to be told the other mirrors: the oldest of it goes untold",
                extra=fields(entries=self.count // 10),
            )
        for what in (_LEARNT_ANEW, "true"):
            while self._size > self._most and (going := await self._count_oldest(what)):
                await self._database.write(
                    Statement(
                        "DELETE FROM untold WHERE id IN"  # noqa: S608 - the constants here
                        f" (SELECT id FROM untold WHERE {what} ORDER BY id LIMIT ?)",
                        [(going,)],
                    ),
                    is_durable=False,
                )
                self.lost += going
                await self._measure()

    async def _count_oldest(self, what: str) -> int:
        """How many of the kind go next."""
        found = await self._database.first(
            "SELECT count(*) FROM (SELECT 1"  # noqa: S608 - the constants here
            f" FROM untold WHERE {what} LIMIT ?)",
            (max(1, self.count // 10),),
            int,
        )
        return found or 0

    async def _measure(self) -> None:
        found = await self._database.first(
            "SELECT coalesce(sum(length(entry) + ?), 0), count(*) FROM untold",
            (_OVERHEAD,),
            lambda size, count: (size, count),
        )
        self._size, self.count = found or (0, 0)
        self._sizes.clear()
