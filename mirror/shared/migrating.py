"""What the database must be like, and how it becomes so: under a lock, whoever comes first.

    version       what the scripts have made of it; each leads from one version to the next
    usable_from   the oldest version that a mirror may know and still use what there is

A script that only adds leaves `usable_from` as it is: older mirrors go on beside newer ones while
an upgrade rolls. One that takes away, or changes what rows mean, raises it.
"""

import asyncio
import uuid
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mirror.oci.errors import StoreError

SCRIPTS: tuple[tuple[str, int], ...] = (("01-records.sql", 1), ("02-turns.sql", 1))
"""Each with the `usable_from` that it leads to; only ever appended to."""

_LOCK = 0x6D6972726F72  # "mirror"

# Of the catalogs themselves: what a session remembers of them, waiting for a lock does not renew.
_FIND = (
    "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class AS c WHERE c.relnamespace = n.oid"
    "  AND c.relname = 'deployment') FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'mirror'"
)


class Unusable(StoreError):
    """The database is there, and not for this mirror: waiting does not help."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Whose a database is."""

    id: str
    version: int


async def find(connection: Any) -> Deployment | None:
    """Whose it is; None where nobody has begun yet.

    Raises:
        Unusable: It is somebody else's, or of a mirror that is too new.
    """
    is_ours = await connection.fetchval(_FIND)
    if is_ours is None:
        return None
    if not is_ours:
        raise Unusable(
            'the database has a schema "mirror" that no mirror has made: name another database'
        )
    row = await connection.fetchrow("SELECT id, version, usable_from FROM mirror.deployment")
    if row is None:
        raise Unusable("the database has lost whose it is: make a new one, or restore this one")
    if row["usable_from"] > len(SCRIPTS):
        raise Unusable(
            f"the database is of version {row['version']}, this mirror knows {len(SCRIPTS)}:"
            " newer mirrors use it; run such a one"
        )
    return Deployment(str(row["id"]), row["version"])


async def migrate(connection: Any, *, expected: str | None) -> Deployment:
    """Bring it up to date. `expected`: whose it must be, if that is known.

    Raises:
        Unusable: It is not for this mirror.
    """
    found = await require_ours(connection, expected)
    if found is not None and found.version >= len(SCRIPTS):
        return found
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        found = await find(connection)  # somebody else may have been first
        for number, (name, usable_from) in enumerate(SCRIPTS, start=1):
            if found is None or number > found.version:
                await connection.execute(await asyncio.to_thread(_read, name))
                await connection.execute(
                    "UPDATE mirror.deployment SET version = $1, usable_from = $2",
                    number, usable_from,
                )  # fmt: skip
                if number == 1:
                    made = uuid.uuid4()
                    await connection.execute(
                        "INSERT INTO mirror.deployment (id, version, usable_from)"
                        " VALUES ($1, $2, $3)",
                        made, number, usable_from,
                    )  # fmt: skip
        found = await find(connection)
    if found is None:
        raise Unusable("the database does not keep what is written into it")
    return found


async def require_ours(connection: Any, expected: str | None) -> Deployment | None:
    """See that it belongs to whom it must, if that is known. Raises Unusable."""
    found = await find(connection)
    if expected is None or (found is not None and found.id == expected):
        return found
    whose = "nobody's yet" if found is None else f"that of deployment {found.id}"
    raise Unusable(
        f"the database is {whose}, and this mirror belongs to deployment {expected}: name the"
        " database of that one, or give the mirror an empty store.root"
    )


def _read(name: str) -> str:
    return files("mirror.shared").joinpath("schema", name).read_text("utf-8")
