"""A look at what several mirrors have in common, for people: nothing is changed for good."""

import asyncio
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirror.config import EnvironmentProxies, Shared
from mirror.shared.address import read_address
from mirror.shared.bucket import MARKER, PROBE, ObjectBucket
from mirror.shared.database import connect, require_primary
from mirror.shared.failing import translated
from mirror.shared.migrating import SCRIPTS, Deployment, Unusable, find
from mirror.shared.opening import make_store
from mirror.shared.ports import BucketDown, NoObject

_PATIENCE = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class LookAtDatabase:
    """What there is. `deployment`: whose it is, if anybody's; `ahead`: its clock, in seconds."""

    where: str
    server: str
    deployment: Deployment | None
    may_create: bool
    ahead: float
    is_in_clear: bool

    @property
    def waits_for_migration(self) -> bool:
        """Whether the first mirror that comes changes its tables."""
        return self.deployment is None or self.deployment.version < len(SCRIPTS)


async def look_at_database(file: Path) -> LookAtDatabase:
    """Ask it what it is.

    Raises:
        Unusable: It is not for mirrors like this; or the file makes no sense.
        DatabaseDown: It does not answer, or only to be read from.
    """
    try:
        address = await asyncio.to_thread(read_address, file)
        context = await asyncio.to_thread(address.make_context)
    except ValueError as error:
        raise Unusable(f"shared.database_file {error}") from None
    with translated():
        async with asyncio.timeout(_PATIENCE):
            connection = await connect(address, context, "look")
            try:
                await require_primary(connection)
                ahead, server, may_create = await _ask(connection)
                deployment = await find(connection)
            finally:
                connection.terminate()
    return LookAtDatabase(
        str(address), server, deployment, may_create, ahead, is_in_clear=address.is_in_clear
    )


async def _ask(connection: Any) -> tuple[float, str, bool]:
    before = time.time()  # noqa: TID251 - whether the clocks differ is asked
    now, server, may_create = await connection.fetchrow(
        "SELECT extract(epoch FROM clock_timestamp())::float8, current_setting('server_version'),"
        " has_database_privilege(current_database(), 'CREATE')"
    )
    after = time.time()  # noqa: TID251
    return now - (before + after) / 2, server, may_create


async def read_tallies(file: Path) -> tuple[list[tuple[str, str, str, float]], dict[str, int]]:
    """The mirrors (host, name, version, seconds since they were seen), and how much there is.

    Raises as `look_at_database`; StoreError where nobody has begun.
    """
    address = await asyncio.to_thread(read_address, file)
    context = await asyncio.to_thread(address.make_context)
    with translated():
        async with asyncio.timeout(_PATIENCE):
            connection = await connect(address, context, "status")
            try:
                mirrors = await connection.fetch(
                    "SELECT host, name, version, extract(epoch FROM now() - seen_at)::float8"
                    " FROM mirror.mirrors ORDER BY host, name"
                )
                counts = await connection.fetchrow(
                    "SELECT (SELECT count(*) FROM mirror.repositories) AS repositories,"
                    " (SELECT count(*) FROM mirror.tags) AS tags,"
                    " (SELECT count(*) FROM mirror.manifests) AS manifests,"
                    " (SELECT count(*) FROM mirror.pins) AS pins,"
                    " (SELECT count(*) FROM mirror.blobs WHERE proved_at IS NOT NULL) AS blobs,"
                    " (SELECT coalesce(sum(size), 0)::bigint FROM mirror.blobs"
                    "  WHERE proved_at IS NOT NULL) AS bytes"
                )
            finally:
                connection.terminate()
    return [tuple(row) for row in mirrors], dict(counts)


@dataclass(frozen=True, slots=True)
class LookAtBucket:
    """What there is. `deployment`: whose it is, if anybody's; `seconds` it took to put and get."""

    deployment: str | None
    seconds: float


async def look_at_bucket(settings: Shared, proxies: EnvironmentProxies) -> LookAtBucket:
    """Put something into it, get that, and take it out again. Raises BucketDown, ValueError."""
    bucket = ObjectBucket(make_store(settings, proxies))
    probe = f"{PROBE}{uuid.uuid4().hex}"  # others may be looking, too
    try:
        async with asyncio.timeout(_PATIENCE):
            whose = await _marker(bucket)
            began = time.monotonic()
            await bucket.put(probe, b"1")
            if await bucket.get(probe) != b"1":
                raise BucketDown("it gives back something else than was put")
            await bucket.delete([probe])
            return LookAtBucket(whose, time.monotonic() - began)
    except NoObject:
        raise BucketDown("it does not give what has been put a moment ago") from None
    except TimeoutError:
        raise BucketDown(f"no answer within {_PATIENCE:.0f} s") from None


async def _marker(bucket: ObjectBucket) -> str | None:
    try:
        return (await bucket.get(MARKER)).decode(errors="replace").strip()
    except NoObject:
        return None
