"""What has happened to a file in the store while nobody looked costs a transfer, and no pull."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartMirror
from tests.support.images import random_layer
from tests.support.upstream import ScriptedRegistry

SIZE = 700_000  # more than is answered from memory


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(SIZE // 2)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _grow, _empty, Path.unlink])
async def test_a_layer_of_another_size_than_was_recorded_is_fetched_again(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    damage: Callable[[Path], None],
) -> None:
    layer = random_layer(SIZE, seed=77)
    digest = upstream.add_blob(layer.blob, "library/app")
    mirror = await start_mirror()
    assert (await mirror.client.blob("app", digest)).digest == digest
    await mirror.until_metric("mirror_store_blobs", 1)
    await mirror.stop()  # or its file would be open still, and pooled
    [path] = mirror.store_root.glob(f"blobs/sha256/*/{digest.removeprefix('sha256:')}")
    damage(path)
    mirror = await start_mirror()
    upstream.forget()
    for status in ("mirror; fwd=miss; stored", "mirror; hit"):
        answer = await mirror.client.blob("app", digest)
        assert answer.digest == digest
        assert answer.headers["Cache-Status"] == status
        await mirror.until_metric("mirror_fills_active", 0)
    assert [asked.method for asked in upstream.asked("blob")] == ["GET"]
    assert path.read_bytes() == layer.blob
    assert await mirror.metric("mirror_store_bytes") == len(layer.blob)


@pytest.mark.parametrize("damage", [_cut, _grow, _empty])
async def test_a_layer_that_is_damaged_while_its_file_is_open_is_fetched_again(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    damage: Callable[[Path], None],
) -> None:
    layer = random_layer(SIZE, seed=77)
    digest = upstream.add_blob(layer.blob, "library/app")
    mirror = await start_mirror()
    assert (await mirror.client.blob("app", digest)).digest == digest
    await mirror.until_metric("mirror_store_blobs", 1)
    assert (await mirror.client.blob("app", digest)).headers["Cache-Status"] == "mirror; hit"
    [path] = mirror.store_root.glob(f"blobs/sha256/*/{digest.removeprefix('sha256:')}")
    damage(path)
    upstream.forget()
    answer = await mirror.client.blob("app", digest)
    assert (answer.digest, answer.body) == (digest, layer.blob)
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; stored"
    await mirror.until_metric("mirror_fills_active", 0)
    assert [asked.method for asked in upstream.asked("blob")] == ["GET"]
    assert path.read_bytes() == layer.blob
    assert await mirror.metric("mirror_damaged_blobs_total") == 1
