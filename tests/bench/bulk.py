"""A store of a mirror that does not run, with as much on record as years of use leave.

It is written into the databases directly, in a minute: an index of blobs, and what registries would
have said of them. No blob is on disk but those that were there before, so nothing of it is due to
be hashed.
"""

import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mirror.oci.compact import pack
from mirror.oci.digest import Digest
from mirror.storage import index, statements

_HUB = "docker.io"
_NAMED = 10  # digests of an image: its manifest, and nine that it names
_PER_REPOSITORY = 5  # images
_SIZE = 30_000  # bytes of a blob
_GONE = 10  # one of so many is on record, and not here
_OCI_MANIFEST = 1  # as records have it


def record_blobs(root: Path, blobs: int) -> None:
    """Have so many on record, a tenth as many manifests, and two tags for each of those."""
    now = time.time()  # noqa: TID251 - a mirror will look at it by the machine's clock
    rng = random.Random(13)  # noqa: S311 - not a secret
    digests = [pack(Digest("sha256", rng.randbytes(32).hex())) for _ in range(blobs)]
    with _open(root / "records.sqlite3") as records:
        _record(records, digests, now)
    with _open(root / "index.sqlite3") as stored:
        day = int(now // index.DAY)
        here = sorted(it for number, it in enumerate(digests) if number % _GONE)
        stored.executemany(
            statements.ADOPT_BLOB,
            ((digest, _SIZE, 0, now - number % 86_400, day) for number, digest in enumerate(here)),
        )


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for function in index.SCHEMA.functions:
            connection.create_function(function.__name__, -1, function, deterministic=True)
        connection.executescript("PRAGMA synchronous = OFF; PRAGMA cache_size = -262144")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _record(records: sqlite3.Connection, digests: Sequence[bytes], now: float) -> None:
    many, hour = records.executemany, int(now // 3600)
    repositories = len(digests) // _NAMED // _PER_REPOSITORY
    records.execute("INSERT INTO upstreams (name) VALUES (?) ON CONFLICT DO NOTHING", (_HUB,))
    ((hub,),) = records.execute("SELECT id FROM upstreams WHERE name = ?", (_HUB,))
    (first,) = records.execute("SELECT coalesce(max(id), 0) + 1 FROM repositories").fetchone()
    many(
        "INSERT INTO repositories VALUES (?, ?, ?)",
        (
            (first + number, hub, f"{_HUB}/library/image-{number:05}")
            for number in range(repositories)
        ),
    )
    (start,) = records.execute("SELECT coalesce(max(id), 0) + 1 FROM digests").fetchone()
    numbers = range(start, start + len(digests))
    rows = zip(numbers, digests, strict=True)
    many("INSERT INTO digests VALUES (?, ?, ?)", ((number, it, hour) for number, it in rows))
    many("INSERT INTO sent VALUES (?, ?, ?)", (
        (number, hub, None if number % _NAMED else _OCI_MANIFEST) for number in numbers
    ))  # fmt: skip
    images = [numbers[at : at + _NAMED] for at in range(0, len(numbers), _NAMED)]
    many("INSERT INTO links VALUES (?, ?, ?, ?)", sorted(
        (first + at % repositories, number, _SIZE, int(number == names[0]))
        for at, names in enumerate(images) for number in names
    ))  # fmt: skip
    many("INSERT INTO edges VALUES (?, ?, ?)", (
        (names[0], position, child) for names in images for position, child in enumerate(names[1:])
    ))  # fmt: skip
    many(
        "INSERT INTO manifests (digest, children) VALUES (?, ?)",
        ((names[0], len(names) - 1) for names in images),
    )
    many(
        "INSERT INTO tags (repository, name, digest, checked_at, is_fallback, is_imported, since,"
        " told_by) VALUES (?, ?, ?, ?, 0, 0, ?, '')",
        sorted(
            (first + at % repositories, f"v{at}{variant}", names[0], 3600.0 * hour, 3600.0 * hour)
            for at, names in enumerate(images) for variant in ("", "-alpine")
        ),
    )  # fmt: skip
