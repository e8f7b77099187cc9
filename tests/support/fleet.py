"""Several mirrors that are one cache: processes, on a real PostgreSQL and a real bucket."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import obstore
from obstore.store import S3Store

from tests.support.bucket import BUCKET, BucketServer
from tests.support.mirror import MirrorProcess, Settings, running_mirror
from tests.support.postgres import Postgres
from tests.support.relay import Relay

LEASE = 4.0  # seconds; a busy machine may keep a mirror from renewing it for a second


@dataclass(eq=False)
class Lines:
    """The ways of one mirror to what all have in common: each may be cut."""

    database: Relay
    bucket: Relay


@dataclass(eq=False)
class Fleet:
    """`mirrors` that are one; `lines` are their ways to database and bucket, in the same order."""

    url: str
    prefix: str
    bucket_server: BucketServer
    mirrors: list[MirrorProcess] = field(default_factory=list)
    lines: list[Lines] = field(default_factory=list)

    @property
    def store(self) -> S3Store:
        """What is in their part of the bucket."""
        return self.bucket_server.store(self.prefix)

    async def keys(self) -> list[str]:
        """The objects of pieces."""
        found = [one async for batch in obstore.list(self.store) for one in batch]
        return sorted(one["path"] for one in found if one["path"] != "mirror-deployment")

    async def rows(self, sql: str, *values: object) -> list[Mapping[str, Any]]:
        """What their database answers."""
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(row) for row in await connection.fetch(sql, *values)]
        except asyncpg.UndefinedTableError:  # no mirror has been there yet
            return []
        finally:
            await connection.close()

    async def leader(self, digest: str) -> int | None:
        """Which of the mirrors has the turn to fetch this."""
        sql = "SELECT holder FROM mirror.blobs WHERE digest = $1 AND holder IS NOT NULL"
        holders = {row["holder"] for row in await self.rows(sql, digest)}
        names = [self.name(number) for number in range(len(self.mirrors))]
        found = [number for number, name in enumerate(names) if name in holders]
        return found[0] if found else None

    def name(self, number: int) -> str:
        """What the database calls a mirror."""
        return (self.mirrors[number].store_root / "mirror-id").read_text("utf-8")

    async def is_proved(self, digest: str) -> bool:
        """Whether the bucket has it, whole."""
        sql = "SELECT 1 FROM mirror.blobs WHERE digest = $1 AND proved_at IS NOT NULL"
        return bool(await self.rows(sql, digest))


@asynccontextmanager
async def running_fleet(
    directory: Path,
    upstreams: Mapping[str, Settings],
    *,
    postgres: Postgres,
    bucket_server: BucketServer,
    count: int = 2,
    shared: Settings | None = None,
    bucket_port: Callable[[int], int] | None = None,
    away: Collection[str] = (),
    by_lines: bool = True,
    **overrides: Settings,
) -> AsyncIterator[Fleet]:
    """Run `count` mirrors in a new deployment. `bucket_port`: where a mirror finds the bucket.

    `away`: "database" or "bucket", which no mirror can reach until somebody starts its line.
    Without `by_lines` they are reached directly, for who measures.
    """
    url, prefix = await postgres.create_database(), uuid.uuid4().hex[:8]
    fleet = Fleet(url, prefix, bucket_server)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bucket_server.empty, prefix)
        starts = [
            _mirror(
                directory / f"mirror-{number}", upstreams, fleet, stack,
                ports=(postgres, (bucket_port or (lambda _: bucket_server.port))(number)),
                shared=shared or {}, away=away, by_lines=by_lines, overrides=overrides,
            )
            for number in range(count)
        ]  # fmt: skip
        for lines, mirror in await asyncio.gather(*starts):
            fleet.lines.append(lines)
            fleet.mirrors.append(mirror)
        yield fleet


async def _mirror(
    home: Path,
    upstreams: Mapping[str, Settings],
    fleet: Fleet,
    stack: AsyncExitStack,
    *,
    ports: tuple[Postgres, int],
    shared: Settings,
    away: Collection[str],
    by_lines: bool,
    overrides: Mapping[str, Settings],
) -> tuple[Lines, MirrorProcess]:
    home.mkdir(parents=True)  # noqa: ASYNC240 - a moment
    postgres, bucket_port = ports
    lines = Lines(Relay(postgres.port), Relay(bucket_port))
    for line in (lines.database, lines.bucket):
        await stack.enter_async_context(line)
    for what in away:
        await getattr(lines, what).stop()
    file = home / "database"
    database = fleet.url.rpartition("/")[2]
    port, bucket_url = lines.database.port, lines.bucket.url
    if not by_lines:
        port, bucket_url = postgres.port, f"http://127.0.0.1:{bucket_port}"
    file.write_text(postgres.url(database, port=port), encoding="utf-8")
    settings = {
        "database_file": str(file),
        "bucket": f"s3://{BUCKET}/{fleet.prefix}",
        "endpoint": bucket_url,
        "credentials_file": str(fleet.bucket_server.credentials_file),
        "lease": f"{LEASE}s",
        **shared,
    }
    running = running_mirror(home, upstreams, shared=settings, **overrides)
    return lines, await stack.enter_async_context(running)
