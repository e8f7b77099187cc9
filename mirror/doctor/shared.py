"""Looks at `[shared]`: what its files hold, and what its database and its bucket answer."""

import configparser
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mirror.config import EnvironmentProxies, Shared
from mirror.doctor.finding import Finding, Level
from mirror.oci.errors import StoreError

_DATABASE, _BUCKET = "shared.database_file", "shared.bucket"
_CREDENTIALS = "shared.credentials_file"
_OTHERS = 0o077
_CLOCKS_MAY_DIFFER = 60.0  # seconds; leases and ages are counted by the database's clock alone
_SLOW = 2.0  # seconds for an object of a byte
_PARTS = ("asyncpg", "obstore")


def look_at_shared(shared: Shared | None) -> Iterator[Finding]:
    """What there is to say without asking anybody."""
    if shared is None:
        return
    missing = [name for name in _PARTS if find_spec(name) is None]
    if missing:
        text = f"needs {' and '.join(missing)}: pip install '.[shared]' in its checkout"
        yield Finding("error", "shared", text)
        return
    yield from _database_file(shared.database_file)
    if shared.credentials_file is not None:
        yield from _credentials(shared.credentials_file)
    if shared.endpoint is not None:
        url = urlsplit(shared.endpoint)
        is_here = url.hostname in {"localhost", "127.0.0.1", "::1"}
        if url.scheme == "http" and not is_here:
            text = "is http: what is cached crosses the network in the clear; use https"
            yield Finding("warning", "shared.endpoint", text)
    yield from _bucket(shared)


def _bucket(shared: Shared) -> Iterator[Finding]:
    from mirror.shared.opening import make_store  # noqa: PLC0415 - only where it is asked for

    try:
        make_store(shared, EnvironmentProxies())
    except ValueError as error:
        yield Finding("error", _BUCKET, f"cannot be used: {error}")


def _database_file(file: Path) -> Iterator[Finding]:
    from mirror.shared.address import read_address  # noqa: PLC0415 - only where it is asked for

    try:
        address = read_address(file)
        address.make_context()
    except ValueError as error:
        yield Finding("error", _DATABASE, str(error))
        return
    if address.is_in_clear:
        text = "says sslmode=disable: its password crosses the network in the clear"
        yield Finding("warning", _DATABASE, text)
    yield from _is_private(file, _DATABASE)


def _credentials(file: Path) -> Iterator[Finding]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text("utf-8"))
        section = parser["default"]
        missing = {"aws_access_key_id", "aws_secret_access_key"} - set(section)
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError):  # quoted by none of them
        text = "is no AWS credentials file: [default], aws_access_key_id, aws_secret_access_key"
        yield Finding("error", _CREDENTIALS, text)
        return
    if missing:
        yield Finding("error", _CREDENTIALS, f"[default] lacks {', '.join(sorted(missing))}")
    yield from _is_private(file, _CREDENTIALS)


def _is_private(file: Path, where: str) -> Iterator[Finding]:
    if file.stat().st_mode & _OTHERS & ~0o040:  # a group may be the mirror's own
        yield Finding("warning", where, "can be read by every user of this machine: chmod o= it")


async def examine_shared(
    shared: Shared | None, proxies: EnvironmentProxies
) -> AsyncIterator[Finding]:
    """What the database and the bucket answer; nothing is made in them."""
    if shared is None or any(it.level == "error" for it in look_at_shared(shared)):
        return
    from mirror.shared.looking import look_at_bucket, look_at_database  # noqa: PLC0415
    from mirror.shared.ports import BucketDown  # noqa: PLC0415

    whose: str | None = None
    try:
        database = await look_at_database(shared.database_file)
    except StoreError as error:
        yield Finding("error", _DATABASE, str(error))
    else:
        whose = None if database.deployment is None else database.deployment.id
        for finding in _database(database):
            yield finding
    try:
        bucket = await look_at_bucket(shared, proxies)
    except (BucketDown, ValueError) as error:
        yield Finding("error", _BUCKET, f"cannot be used: {error}")
        return
    level: Level = "warning" if bucket.seconds > _SLOW else "ok"
    yield Finding(level, _BUCKET, f"keeps and gives an object, within {bucket.seconds:.2f} s")
    if bucket.deployment is not None and whose is not None and bucket.deployment != whose:
        text = (
            f"belongs to deployment {bucket.deployment[:64]}, the database to {whose}: name another"
            " bucket, or another prefix in it"
        )
        yield Finding("error", _BUCKET, text)


def _database(found: Any) -> Iterator[Finding]:
    yield Finding("ok", _DATABASE, f"{found.where} answers: PostgreSQL {found.server}")
    if found.deployment is None and not found.may_create:
        text = "is new, and its user may not create: GRANT CREATE ON DATABASE ... TO ..."
        yield Finding("error", _DATABASE, text)
    elif found.deployment is None:
        text = "belongs to no deployment yet: the first mirror, or mirror shared init, sees to it"
        yield Finding("ok", _DATABASE, text)
    if abs(found.ahead) > _CLOCKS_MAY_DIFFER:
        text = f"its clock and this machine's differ by {abs(found.ahead):.0f} s; set it (NTP)"
        yield Finding("warning", _DATABASE, text)
