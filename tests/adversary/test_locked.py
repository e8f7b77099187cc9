"""Another program (a backup, an operator's shell) holds the lock of the store's databases."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import StartMirror
from tests.support.images import image, random_layer
from tests.support.upstream import ScriptedRegistry


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


@pytest.mark.parametrize("name", ["records", "index"])
async def test_while_another_program_has_a_database_locked_pulls_go_on_and_are_kept_afterwards(
    upstream: ScriptedRegistry, start_mirror: StartMirror, tmp_path: Path, name: str
) -> None:
    app = upstream.add(image(random_layer(300_000, seed=1)), "library/app", "1")
    other = upstream.add(image(random_layer(300_000, seed=2)), "library/other", "1")
    mirror = await start_mirror()
    with _locked(tmp_path / "store" / f"{name}.sqlite3"):
        async with asyncio.timeout(15):  # each write used to wait for the lock five seconds
            assert (await mirror.client.manifest("app", "1")).digest == app.digest
            for digest in app.blobs:
                assert (await mirror.client.blob("app", digest)).digest == digest
    assert (await mirror.client.manifest("other", "1")).digest == other.digest
    upstream.requests.clear()
    await mirror.stop()
    again = await start_mirror()
    assert (await again.client.manifest("other", "1")).digest == other.digest
    assert upstream.requests == []
