"""What would go next: in the order in which it goes, with the reason, and until when it stays."""

import json
from pathlib import Path
from typing import Any

import pytest

from mirror.contents.models import Leaving, LeavingBlob
from mirror.control.api.leaving import foretell, room_of
from mirror.control.models import Store
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import document, running_mirror, start_inner_mirror, upstream_at
from tests.support.operators import ask, command, pull
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

SIZE = 2**20


def _add(upstream: ScriptedRegistry, name: str, tag: str, seed: int) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=seed)), name, tag)


async def test_what_is_said_to_go_next_is_what_goes(
    upstream: ScriptedRegistry, tmp_path: Path, clock: FakeClock
) -> None:
    images = [_add(upstream, f"org/{number}", "1", number) for number in range(3)]
    expected = [one.layers[0] for one in images]
    told: dict[str, Any] = {}
    settings = document(
        {"docker.io": upstream_at(upstream.url)}, store_root=tmp_path / "store",
        store={"max_size": f"{SIZE * 15 // 4} B"},
    )  # fmt: skip
    mirror = await start_inner_mirror(settings, clock)
    try:
        for number, one in enumerate(images):
            await pull(mirror.client, f"org/{number}", one)
            clock.advance(3600)

        def layers() -> list[Any]:
            return [it for it in told["leaving"] if it["size"] > SIZE // 2]

        async def is_told() -> bool:  # once nobody holds any of them
            told.update(await ask(mirror, "/store/next"))
            return [it["digest"] for it in layers()] == expected

        await until(is_told)
        assert layers()[0]["names"] == ["docker.io/org/0:1"]
        assert layers()[0]["reasons"] == ["little-used"]
        assert 0 < layers()[0]["uses"] < layers()[2]["uses"] < 1.001  # rounded
        assert told["room"] < SIZE
        assert [it["goes_at"] for it in told["leaving"]] == sorted(
            it["goes_at"] for it in told["leaving"]
        )
        more = _add(upstream, "org/more", "1", 9)
        await pull(mirror.client, "org/more", more)

        async def is_gone() -> bool:
            here = {it["digest"] for it in (await ask(mirror, "/blobs"))["blobs"]}
            return images[0].layers[0] not in here and images[2].layers[0] in here

        await until(is_gone)
    finally:
        await mirror.stop()


async def test_what_no_tag_means_any_more_goes_first_and_pins_never(
    upstream: ScriptedRegistry, tmp_path: Path, clock: FakeClock
) -> None:
    old, pinned = _add(upstream, "org/app", "1", 1), _add(upstream, "org/pin", "1", 2)
    settings = document({"docker.io": upstream_at(upstream.url)}, store_root=tmp_path / "store")
    mirror = await start_inner_mirror(settings, clock)
    try:
        await pull(mirror.client, "org/pin", pinned)
        await pull(mirror.client, "org/app", old)
        await ask(mirror, "/pins", {"image": "org/pin:1"})
        _add(upstream, "org/app", "1", 3)
        clock.advance(3600)
        assert (await mirror.client.manifest("org/app", "1")).status == 200
        told: dict[str, Any] = {}

        async def is_superseded() -> bool:
            told.update(await ask(mirror, "/store/next"))
            return bool(told["leaving"]) and "superseded" in told["leaving"][0]["reasons"]

        await until(is_superseded)
        named = {it["digest"] for it in told["leaving"]}
        assert old.layers[0] in named
        assert not named & {str(pinned.digest), *pinned.blobs}
    finally:
        await mirror.stop()


async def test_the_command_tells_it_of_a_mirror_that_runs_and_of_a_store_at_rest(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app = _add(upstream, "org/app", "1", 1)
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        await pull(mirror.client, "org/app", app)
        status, told, _ = await command(mirror, "du", "--next")
        assert (status, "docker.io/org/app:1" in told) == (0, True)
        assert "can come before anything has to go" in told
        await mirror.process.stop()
        status, told, _ = await command(mirror, "du", "--next", "--json")
        assert status == 0
        found = json.loads(told)
        assert {it["digest"] for it in found["leaving"]} == {str(app.digest), *app.blobs}
        assert found["room"] is None


def _blob(size: int) -> LeavingBlob:
    return LeavingBlob(
        digest="", kind="blob", size=size, names=[], last_used=None, uses=0, slowness=1,
        reasons=[], goes_at=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(10.0, [110.0, 115.0]), (0.0, [None, None]), (1e-9, [None, None])],
)
def test_each_stays_until_what_comes_needs_its_room(
    rate: float, expected: list[float | None]
) -> None:
    found = Leaving(leaving=[_blob(50), _blob(9)], room=None, rate=None)
    told = foretell(found, 100, rate, 100.0)
    assert [it.goes_at for it in told.leaving] == expected
    assert (told.room, told.rate) == (100, rate)


def test_room_is_what_either_limit_leaves() -> None:
    facts: dict[str, Any] = {
        "root": "/",
        "blobs": 1,
        "bytes": 1,
        "disk": 60,
        "limit": 100,
        "min_free": 5,
    }
    assert room_of(Store(free=30, **facts)) == 25
    assert room_of(Store(free=90, **facts)) == 40
    assert room_of(Store(free=2, **facts)) == 0
