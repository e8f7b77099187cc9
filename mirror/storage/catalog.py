"""What registries have said: links, tags, referrers, media types (SQLite, `catalog.sqlite3`)."""

# ruff: noqa: S608 - all that is ever put into a statement's text is _REPOSITORY_ID

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.reference import Repository
from mirror.oci.request import Page
from mirror.sqlite import Database, Schema, Statement

SCHEMA = Schema(
    name="catalog",
    application_id=0x6D697272,  # "mirr"
    package="mirror.storage",
    scripts=("schema.sql", "schema_2.sql"),
    remedy=(
        ". The blobs are not affected: move the file (with its -wal and -shm) aside and start"
        " again, and it is made anew"
    ),
)


@dataclass(frozen=True, slots=True)
class TagRecord:
    """What a tag meant when upstream last said so (`checked_at`, seconds since the epoch)."""

    digest: Digest
    checked_at: float


@dataclass(frozen=True, slots=True)
class ReferrersRecord:
    """Upstream's answer to a referrers request, as it came."""

    content: bytes
    filtered: bool
    checked_at: float


@dataclass(frozen=True, slots=True)
class Link:
    """A digest that a repository may serve; `size` in bytes."""

    digest: Digest
    size: int


_UPSERT_REPOSITORY = (
    "INSERT INTO repositories (namespace, name) VALUES (?, ?) ON CONFLICT DO NOTHING"
)
_REPOSITORY_ID = "(SELECT id FROM repositories WHERE namespace = ? AND name = ?)"


class Catalog:
    """The open catalog. Use `Catalog.open`. All methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator["Catalog"]:
        """Open, and create or migrate where needed; everything asked for is written at exit.

        Raises:
            StoreError: The file is damaged, not ours, or from a newer mirror.
        """
        async with Database.open(path, SCHEMA) as database:
            yield cls(database)

    # What is known

    async def find_link(self, repository: Repository, digest: Digest) -> int | None:
        """The size in bytes of a digest that the repository may serve, on disk or not."""
        rows = await self._database.rows(
            f"SELECT size FROM links WHERE repository = {_REPOSITORY_ID} AND digest = ?",
            (*_name(repository), str(digest)),
            int,
        )
        return rows[0] if rows else None

    async def find_media_type(self, digest: Digest) -> str | None:
        """What a manifest was called."""
        return await self._database.first(
            "SELECT media_type FROM media_types WHERE digest = ?", (str(digest),), str
        )

    async def find_tag(self, repository: Repository, tag: str) -> TagRecord | None:
        """What the tag was last known to mean."""
        rows = await self._database.rows(
            f"SELECT digest, checked_at FROM tags WHERE repository = {_REPOSITORY_ID} AND name = ?",
            (*_name(repository), tag),
            lambda digest, checked_at: TagRecord(parse_digest(digest), checked_at),
        )
        return rows[0] if rows else None

    async def find_referrers(
        self, repository: Repository, digest: Digest, artifact_type: str | None
    ) -> ReferrersRecord | None:
        """Upstream's last answer to this referrers request."""
        rows = await self._database.rows(
            "SELECT content, filtered, checked_at FROM referrers"
            f" WHERE repository = {_REPOSITORY_ID} AND digest = ? AND artifact_type = ?",
            (*_name(repository), str(digest), artifact_type or ""),
            lambda content, filtered, checked_at: ReferrersRecord(
                content, bool(filtered), checked_at
            ),
        )
        return rows[0] if rows else None

    async def list_tags(self, repository: Repository, page: Page) -> list[str]:
        """The cached tags of a repository, in lexical order."""
        return await self._database.rows(
            f"SELECT name FROM tags WHERE repository = {_REPOSITORY_ID} AND name > ?"
            " ORDER BY name LIMIT ?",
            (*_name(repository), page.last or "", _limit(page)),
            str,
        )

    async def list_links(self) -> list[tuple[Repository, Digest]]:
        """Every repository with all that it may serve, on disk or not."""
        return await self._database.rows(
            "SELECT namespace, name, digest FROM links AS l JOIN repositories AS r"
            " ON l.repository = r.id",
            (),
            lambda namespace, name, digest: (Repository(namespace, name), parse_digest(digest)),
        )

    async def count_links(self, digests: Collection[Digest]) -> Mapping[Digest, int]:
        """How many repositories each of these is linked to; only what is linked at all."""
        sql = "SELECT count(*) FROM links WHERE digest = ?"
        counts = {
            digest: await self._database.first(sql, (str(digest),), int) or 0 for digest in digests
        }
        return {digest: count for digest, count in counts.items() if count}

    # What is learnt

    async def record_links(self, repository: Repository, links: Iterable[Link]) -> None:
        """The repository may serve these digests."""
        await self._database.write(*_links(repository, links))

    async def record_tag(self, repository: Repository, tag: str, record: TagRecord) -> None:
        """Upstream has said what a tag means."""
        await self._database.write(
            Statement(_UPSERT_REPOSITORY, [_name(repository)]),
            Statement(
                f"INSERT INTO tags VALUES ({_REPOSITORY_ID}, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET"
                " digest = excluded.digest, checked_at = excluded.checked_at",
                [
                    (*_name(repository), tag, str(record.digest), record.checked_at),
                ],
            ),
        )

    async def record_referrers(
        self,
        repository: Repository,
        digest: Digest,
        artifact_type: str | None,
        record: ReferrersRecord,
    ) -> None:
        """Upstream has answered a referrers request."""
        await self._database.write(
            Statement(_UPSERT_REPOSITORY, [_name(repository)]),
            Statement(
                f"INSERT OR REPLACE INTO referrers VALUES ({_REPOSITORY_ID}, ?, ?, ?, ?, ?)",
                [
                    (
                        *_name(repository),
                        str(digest),
                        artifact_type or "",
                        int(record.filtered),
                        record.content,
                        record.checked_at,
                    )
                ],
            ),
            _FORGET_OLD_REFERRERS,
        )

    async def record_media_type(self, digest: Digest, media_type: str) -> None:
        """What a manifest is called."""
        await self._database.write(
            Statement(
                "INSERT OR REPLACE INTO media_types VALUES (?, ?)", [(str(digest), media_type)]
            )
        )


# Anyone may ask for the referrers of anything, so their number is bounded.
_FORGET_OLD_REFERRERS = Statement(
    "DELETE FROM referrers WHERE checked_at <"
    " (SELECT checked_at FROM referrers ORDER BY checked_at DESC LIMIT 1 OFFSET 10000)",
    [()],
)


def _links(repository: Repository, links: Iterable[Link]) -> tuple[Statement, ...]:
    name = _name(repository)
    return (
        Statement(_UPSERT_REPOSITORY, [name]),
        Statement(
            f"INSERT INTO links VALUES ({_REPOSITORY_ID}, ?, ?) ON CONFLICT DO NOTHING",
            [(*name, str(link.digest), link.size) for link in links],
        ),
    )


def _name(repository: Repository) -> tuple[str, str]:
    return repository.namespace, repository.name


def _limit(page: Page) -> int:
    return -1 if page.n is None else page.n
