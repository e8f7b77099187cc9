"""Several mirrors that are one cache: processes, on a real PostgreSQL and a real bucket."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import obstore
from obstore.store import S3Store

from tests.support.mirror import MirrorProcess, Settings, running_mirror
from tests.support.postgres import Postgres
from tests.support.relay import Relay
from tests.support.seaweed import BUCKET, Seaweed

LEASE = 1.5  # seconds


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
    seaweed: Seaweed
    mirrors: list[MirrorProcess] = field(default_factory=list)
    lines: list[Lines] = field(default_factory=list)

    @property
    def store(self) -> S3Store:
        """What is in their part of the bucket."""
        return self.seaweed.store(self.prefix)

    async def keys(self) -> list[str]:
        """The objects of pieces."""
        found = [one async for batch in obstore.list(self.store) for one in batch]
        return sorted(one["path"] for one in found if one["path"] != "mirror-deployment")

    async def rows(self, sql: str, *values: object) -> list[Mapping[str, Any]]:
        """What their database answers."""
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(row) for row in await connection.fetch(sql, *values)]
        finally:
            await connection.close()

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
    seaweed: Seaweed,
    count: int = 2,
    shared: Settings | None = None,
    bucket_port: Callable[[int], int] | None = None,
    **overrides: Settings,
) -> AsyncIterator[Fleet]:
    """Run `count` mirrors in a new deployment. `bucket_port`: where a mirror finds the bucket."""
    url, prefix = await postgres.create_database(), uuid.uuid4().hex[:8]
    fleet = Fleet(url, prefix, seaweed)
    async with AsyncExitStack() as stack:
        for number in range(count):
            home = directory / f"mirror-{number}"
            home.mkdir(parents=True)
            port = seaweed.port if bucket_port is None else bucket_port(number)
            lines = Lines(Relay(postgres.port), Relay(port))
            for line in (lines.database, lines.bucket):
                await stack.enter_async_context(line)
            fleet.lines.append(lines)
            database_file = home / "database"
            database_file.write_text(
                postgres.url(url.rpartition("/")[2], port=lines.database.port), encoding="utf-8"
            )
            settings = {
                "database_file": str(database_file),
                "bucket": f"s3://{BUCKET}/{prefix}",
                "endpoint": lines.bucket.url,
                "credentials_file": str(seaweed.credentials_file),
                "lease": f"{LEASE}s",
                **(shared or {}),
            }
            mirror = await stack.enter_async_context(
                running_mirror(home, upstreams, shared=settings, **overrides)
            )
            fleet.mirrors.append(mirror)
        yield fleet
