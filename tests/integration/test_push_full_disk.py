"""A disk that another program fills while something is pushed; a real one, small, in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import StartMirror
from tests.support.images import digest_of, random_bytes
from tests.support.mirror import InnerMirror
from tests.support.pusher import Pusher, codes
from tests.support.pushing import NAME, bytes_taken, held, start_pushing
from tests.support.small_disk import small_disk
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

MIB = 2**20
LARGE = random_bytes(24 * MIB, seed=15)
DIGEST = digest_of(LARGE)


pytestmark = pytest.mark.usefixtures("takes_pushes")


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Path]:
    """Where `start_mirror` has its store."""
    async with small_disk(tmp_path / "store", 4 * len(LARGE)) as path:
        yield path


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, disk: Path, start_mirror: StartMirror) -> InnerMirror:
    return await start_pushing(start_mirror, upstream, store={"min_free": "1 MiB"})


@pytest.fixture(params=[False, True], ids=["chunks", "length"])
def pusher(mirror: InnerMirror, request: pytest.FixtureRequest) -> Pusher:
    return Pusher(mirror.client, NAME, tells_length=request.param)


def fill(disk: Path) -> Path:
    """Have another program take all that is free."""
    taken = disk / "of-another-program"
    with suppress(OSError), taken.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(MIB))
    with suppress(OSError), taken.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1))
    return taken


async def test_what_finds_the_disk_full_in_its_middle_is_507_and_goes_on_when_there_is_room(
    disk: Path, upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    gate = takes_pushes.hold(after=3 * MIB)
    upload = await pusher.begin()
    async with asyncio.TaskGroup() as group:
        patching = group.create_task(upload.bring(LARGE))
        await gate.reached()
        taken = await asyncio.to_thread(fill, disk)
        gate.open()
    answer = patching.result()
    assert (answer.status, codes(answer)) == (507, ["SIZE_INVALID"])
    assert held(upstream, DIGEST) is None
    taken.unlink()
    assert await pusher.blob(LARGE) == DIGEST  # the client's next try
    assert held(upstream, DIGEST) == LARGE
    assert bytes_taken(upstream) < len(LARGE) + 4 * MIB


async def test_what_was_brought_before_the_disk_was_full_gets_there(
    disk: Path, upstream: ScriptedRegistry, takes_pushes: Pushes, pusher: Pusher
) -> None:
    gate = takes_pushes.hold(after=MIB)
    content = LARGE[: 4 * MIB]
    digest, upload = digest_of(content), await pusher.begin()
    async with asyncio.TaskGroup() as group:
        patching = group.create_task(upload.patch(content))
        await gate.reached()
        assert (await patching).status == 202
        ending = group.create_task(upload.put(b"", digest))
        await asyncio.to_thread(fill, disk)
        gate.open()
    assert ending.result().status == 201
    assert held(upstream, digest) == content


async def test_what_begins_on_a_full_disk_is_507_and_pulls_go_on(
    disk: Path, upstream: ScriptedRegistry, mirror: InnerMirror, pusher: Pusher
) -> None:
    taken = await asyncio.to_thread(fill, disk)
    upload = await pusher.begin()
    answer = await upload.patch(LARGE)
    assert (answer.status, codes(answer)) == (507, ["SIZE_INVALID"])
    assert (await upload.cancel()).status in {204, 404}
    taken.unlink()
    assert await pusher.blob(LARGE) == DIGEST
    assert (await mirror.client.blob(NAME, DIGEST)).digest == DIGEST


@pytest.mark.parametrize("ending", ["PATCH", "PUT"])
async def test_what_has_begun_on_a_full_disk_goes_on_when_there_is_room(
    disk: Path, upstream: ScriptedRegistry, pusher: Pusher, ending: str
) -> None:
    taken = await asyncio.to_thread(fill, disk)
    upload = await pusher.begin()
    for _ in range(3):
        assert (await upload.bring(LARGE)).status == 507
    taken.unlink()
    answer = await upload.status()
    assert answer.status == 204
    kept = int(answer.headers["Range"].partition("-")[2])
    rest = LARGE[kept + 1 :] if kept else LARGE
    if ending == "PATCH":
        assert (await upload.bring(rest)).status == 202
        rest = b""
    assert (await upload.put(rest, DIGEST)).status == 201
    assert held(upstream, DIGEST) == LARGE
