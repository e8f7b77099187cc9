"""A disk that another program fills while blobs are on their way; a real one, small, in memory."""

import asyncio
import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.client import get
from tests.support.images import image, random_layer
from tests.support.mirror import InnerMirror
from tests.support.process import until
from tests.support.small_disk import small_disk
from tests.support.upstream import ScriptedRegistry

MIB = 2**20
LAYER = random_layer(24 * MIB, seed=22)
CONTENT, SIZE = LAYER.blob, len(LAYER.blob)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Path]:
    """Where `start_mirror` has its store."""
    async with small_disk(tmp_path / "store", 2 * SIZE) as path:
        yield path


@pytest.fixture
def digest(upstream: ScriptedRegistry) -> str:
    return upstream.add(image(LAYER), "library/app", "1").layers[0]


def _fill(disk: Path) -> None:
    with suppress(OSError), (disk / "of-another-program").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(MIB))


async def _read(mirror: InnerMirror, digest: str, wanted: str | None = None) -> str:
    hasher = hashlib.sha256()
    headers = {"Range": wanted} if wanted else {}
    target = f"/v2/app/blobs/{digest}"
    async with mirror.client.open(target, headers=headers) as response:
        assert response.status == (206 if wanted else 200)
        async for chunk in response.content.iter_any():
            hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"


async def _has_readers(mirror: InnerMirror, count: int) -> bool:
    return await mirror.metric("mirror_fill_readers") == count


@pytest.mark.parametrize("sent", ["in segments", "over one line", "chunked"])
async def test_five_readers_get_every_byte_of_what_the_disk_cuts_off_in_the_middle(
    disk: Path,
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    digest: str,
    sent: str,
) -> None:
    if sent == "chunked":
        upstream.fault(kind="blob", chunked=True, ignore_range=True)
    connections = 4 if sent == "in segments" else 1
    mirror = await start_mirror(fill={"segment_size": "2 MiB", "connections": connections})
    await mirror.client.manifest("app", "1")
    gate = upstream.hold(digest, after=3 * MIB)
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(_read(mirror, digest)) for _ in range(5)]
        await gate.reached()
        await until(partial(_has_readers, mirror, 5))
        await asyncio.to_thread(_fill, disk)
        gate.open()
    assert [pull.result() for pull in pulls] == [digest] * 5
    assert upstream.bytes_sent(digest) < 2 * SIZE  # with what lay beyond the cut, or was under way
    assert await mirror.metric("mirror_fills_total", outcome="no_room") == 1
    assert await mirror.metric("mirror_passed_through_total", part="rest") == 5
    assert await _read(mirror, digest) == digest  # whoever comes while it is full
    (disk / "of-another-program").unlink()
    assert await _read(mirror, digest) == digest
    await mirror.until_metric("mirror_fills_total", 1, outcome="committed")


async def test_a_download_that_the_disk_cuts_off_is_told_in_log_and_status(
    disk: Path,
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    digest: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mirror = await start_mirror(fill={"connections": 1})
    gate = upstream.hold(digest, after=3 * MIB)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(_read(mirror, digest))
        await gate.reached()
        await until(partial(_has_readers, mirror, 1))
        await asyncio.to_thread(_fill, disk)
        gate.open()
    assert pull.result() == digest
    status = json.loads((await get(f"{mirror.admin_url}/status")).body)
    assert status["status"] == "degraded"
    assert any("in the middle" in problem["what"] for problem in status["problems"])
    told = [record.getMessage() for record in caplog.records]
    assert any("its readers get the rest past the disk" in line for line in told)


async def test_what_cannot_be_kept_for_want_of_files_passes_through_and_status_says_so(
    tmp_path: Path, upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    async with small_disk(tmp_path / "store", 2 * SIZE, files=400) as disk:
        mirror = await start_mirror()
        (disk / "others").mkdir()
        with suppress(OSError):
            for number in itertools.count():
                (disk / "others" / str(number)).touch()
        digest = upstream.add(image(LAYER), "library/app", "1").layers[0]
        await mirror.client.manifest("app", "1")
        assert await _read(mirror, digest) == digest
        status = json.loads((await get(f"{mirror.admin_url}/status")).body)
        (problem,) = status["problems"]
        assert problem["what"] == f"nothing new can be kept in {disk}"
        assert "No space left on device" in problem["why"]
        shutil.rmtree(disk / "others")
        assert await _read(mirror, digest) == digest
        await mirror.until_metric("mirror_fills_total", 1, outcome="committed")


async def test_a_part_is_had_past_a_full_disk_too(
    disk: Path, upstream: ScriptedRegistry, start_mirror: StartMirror, digest: str
) -> None:
    mirror = await start_mirror(fill={"connections": 1})
    await mirror.client.manifest("app", "1")
    gate = upstream.hold(digest, after=3 * MIB)
    start, stop = 2 * MIB + 7, SIZE - 7
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(_read(mirror, digest, f"bytes={start}-{stop - 1}"))
        far = clients.create_task(_read(mirror, digest, f"bytes={stop - MIB}-{stop - 1}"))
        await gate.reached()
        await until(partial(_has_readers, mirror, 2))
        await asyncio.to_thread(_fill, disk)
        gate.open()
    assert pull.result() == f"sha256:{hashlib.sha256(CONTENT[start:stop]).hexdigest()}"
    assert far.result() == f"sha256:{hashlib.sha256(CONTENT[stop - MIB : stop]).hexdigest()}"


async def test_what_comes_past_the_disk_is_proved_with_what_is_on_it(
    disk: Path, upstream: ScriptedRegistry, start_mirror: StartMirror, digest: str
) -> None:
    mirror = await start_mirror(fill={"connections": 1})
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", corrupt_at=1000, times=1)
    gate = upstream.hold(digest, after=3 * MIB)

    async def pull() -> None:
        with pytest.raises(aiohttp.ClientPayloadError):
            await _read(mirror, digest)

    async with asyncio.TaskGroup() as clients:
        for _ in range(2):
            _ = clients.create_task(pull())
        await gate.reached()
        await until(partial(_has_readers, mirror, 2))
        await asyncio.to_thread(_fill, disk)
        gate.open()


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EDQUOT])
async def test_whatever_the_disk_says_in_the_middle_is_no_readers_business(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    digest: str,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    write = os.pwritev

    def refuse(descriptor: int, pieces: list[memoryview], offset: int) -> int:
        if offset > 5 * MIB:
            raise OSError(number, os.strerror(number))
        return write(descriptor, pieces, offset)

    monkeypatch.setattr(os, "pwritev", refuse)
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(_read(mirror, digest)) for _ in range(5)]
    assert [pull.result() for pull in pulls] == [digest] * 5
    assert await mirror.metric("mirror_passed_through_total", part="rest") == 5


async def test_a_blob_of_a_size_that_nobody_tells_outgrows_the_store_and_comes_all_the_same(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """It is kept up to a quarter of `max_size`, and then no longer."""
    digest = upstream.add_blob(CONTENT, "library/app")
    upstream.fault(kind="blob", chunked=True, ignore_range=True)
    mirror = await start_mirror(store={"max_size": "20 MiB"})
    assert await _read(mirror, digest) == digest
    assert await _read(mirror, digest) == digest
    assert await mirror.metric("mirror_passed_through_total", part="rest") == 1
