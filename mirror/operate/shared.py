"""`mirror shared`: what several mirrors have in common, for those who run them."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mirror.config import Config, EnvironmentProxies, Shared
from mirror.oci.errors import StoreError
from mirror.shared.bucket import ObjectBucket, claim_bucket
from mirror.shared.database import Database
from mirror.shared.looking import look_at_bucket, look_at_database, read_tallies
from mirror.shared.migrating import SCRIPTS
from mirror.shared.opening import make_store
from mirror.shared.ports import BucketDown
from mirror.shared.sweep import Swept, sweep

_logger = logging.getLogger(__name__)
_PATIENCE = 20.0  # seconds


def require_shared(config: Config) -> Shared:
    """What the configuration says of it. Raises StoreError where that is nothing."""
    if config.shared is None:
        raise StoreError("the configuration has no [shared]: this mirror is by itself")
    return config.shared


async def init(config: Config, proxies: EnvironmentProxies) -> str:
    """Make what mirrors need in database and bucket, or bring it up to date; whose they are.

    Raises:
        StoreError: It cannot be done, or belongs to others; in words.
    """
    shared = require_shared(config)
    async with _database(shared) as database:
        if database.deployment is None:
            raise StoreError(f"the shared database is down: {database.trouble}")
        deployment = database.deployment.id
    try:
        bucket = ObjectBucket(make_store(shared, proxies))
        async with asyncio.timeout(_PATIENCE):
            other = await claim_bucket(bucket, deployment)
    except (BucketDown, ValueError) as error:
        raise StoreError(f"the bucket cannot be used: {error}") from None
    except TimeoutError:
        raise StoreError("the bucket does not answer") from None
    if other is not None:
        raise StoreError(
            f"the bucket belongs to deployment {other[:64]}, the database to {deployment}: name"
            " another bucket, or another prefix in it"
        )
    return deployment


async def sweep_now(config: Config, proxies: EnvironmentProxies) -> Swept:
    """Remove orphans from the bucket.

    Raises:
        StoreError: It cannot be done, or is another deployment's; in words.
    """
    shared = require_shared(config)
    async with _database(shared) as database:
        if database.deployment is None:
            raise StoreError(f"the shared database is down: {database.trouble}")
        try:
            bucket = ObjectBucket(make_store(shared, proxies))
            if await claim_bucket(bucket, database.deployment.id) is not None:
                raise StoreError("the bucket belongs to another deployment than the database")
            return await sweep(database, bucket)
        except (BucketDown, ValueError) as error:
            raise StoreError(f"the bucket cannot be used: {error}") from None


async def status(config: Config, proxies: EnvironmentProxies) -> dict[str, Any]:
    """Who belongs to it, and what there is.

    Raises:
        StoreError: The database says nothing of it.
    """
    shared = require_shared(config)
    looked = await look_at_database(shared.database_file)
    if looked.deployment is None:
        raise StoreError("the database belongs to no deployment yet: mirror shared init")
    mirrors, counts = await read_tallies(shared.database_file)
    try:
        bucket = await look_at_bucket(shared, proxies)
        whose, trouble = bucket.deployment, None
    except (BucketDown, ValueError) as error:
        whose, trouble = None, str(error)
    return {
        "deployment": looked.deployment.id,
        "version": looked.deployment.version,
        "known_version": len(SCRIPTS),
        "database": looked.where,
        "bucket": shared.bucket,
        "bucket_deployment": whose,
        "bucket_trouble": trouble,
        "counts": counts,
        "mirrors": [
            {"host": host, "name": name, "version": version, "seen_seconds": round(seconds)}
            for host, name, version, seconds in mirrors
        ],
    }


def in_words(found: dict[str, Any]) -> list[str]:
    """The status, for people."""
    counts = found["counts"]
    trouble = f": {found['bucket_trouble']}" if found["bucket_trouble"] else ""
    lines = [
        f"deployment {found['deployment']}, version {found['version']}",
        f"database   {found['database']}",
        f"bucket     {found['bucket']}{trouble}",
        (
            f"known      {counts['repositories']} repositories, {counts['tags']} tags,"
            f" {counts['manifests']} manifests, {counts['pins']} pins"
        ),
        f"kept       {counts['blobs']} blobs, {counts['bytes']} bytes",
    ]
    return lines + [
        (
            f"mirror     {it['host']} ({it['name'][:8]}), {it['version']},"
            f" seen {it['seen_seconds']} s ago"
        )
        for it in found["mirrors"]
    ]


@asynccontextmanager
async def _database(shared: Shared) -> AsyncIterator[Database]:
    async with Database.open(
        shared.database_file, name="shared init", expected=None, within=_PATIENCE,
        note_fault=lambda task, error: _logger.error("%s: %s", task, error),
        monotonic=time.monotonic, dice=random.Random(),  # noqa: S311 - for jitter
    ) as database:  # fmt: skip
        yield database
