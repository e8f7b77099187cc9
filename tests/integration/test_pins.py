"""Pinned images are here before anybody asks, as their tags move, and stay."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartMirror
from tests.support.client import Client
from tests.support.clock import FakeClock
from tests.support.images import Image, image, index, random_layer
from tests.support.mirror import InnerMirror, running_mirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry
from tests.unit.storage.opening import on_disk, rot

SIZE = 100_000
OFTEN: dict[str, Any] = {"image": "app:1", "refresh": "50ms"}


def _app(upstream: ScriptedRegistry, seed: int, size: int = SIZE) -> Image:
    layers = [random_layer(size, seed=seed), random_layer(100, seed=seed + 1000)]
    return upstream.add(image(*layers), "library/app", "1")


async def _until_pinned(mirror: InnerMirror, *images: Image) -> None:
    """Return when all of these are on disk, and every pin is complete."""
    wanted = {name for one in images for name in _names(one)}

    async def is_so() -> bool:
        is_complete = await mirror.metric("mirror_pins", state="complete") > 0
        return is_complete and wanted <= on_disk(mirror.store_root)

    await until(is_so)


def _names(one: Image) -> set[str]:
    own = {digest.removeprefix("sha256:") for digest in [one.digest, *one.blobs]}
    return own.union(*map(_names, one.members))


async def _flood(upstream: ScriptedRegistry, mirror: InnerMirror, *seeds: int) -> None:
    """Pull more than the store holds."""
    for seed in seeds:
        digest = upstream.add_blob(random_layer(SIZE, seed=seed).blob, "library/flood")
        answer = await mirror.client.blob("flood", digest)
        assert answer.digest == digest


async def _pull(client: Client, app: Image) -> None:
    assert (await client.manifest("app", "1")).digest == app.digest
    for digest in app.blobs:
        assert (await client.blob("app", digest)).digest == digest


async def test_a_pinned_image_is_here_before_anybody_asks_and_stays_whatever_comes(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    settings = {"pin": [{"image": "app:1"}], "store": {"max_size": "400 KB"}}
    mirror = await start_mirror(**settings)
    await _until_pinned(mirror, app)
    await _flood(upstream, mirror, *range(10, 18))
    upstream.forget()
    await _pull(mirror.client, app)
    assert upstream.asked("blob") == []
    assert await mirror.metric("mirror_evicted_blobs_total") > 0
    await mirror.stop()
    upstream.fault(kind="manifest", repository="library/app", status=503)  # it cannot be asked
    mirror = await start_mirror(**settings)
    await _flood(upstream, mirror, *range(20, 28))
    assert _names(app) <= on_disk(mirror.store_root)


async def test_a_pin_follows_its_tag_and_lets_the_version_before_go(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    old = _app(upstream, 1)
    mirror = await start_mirror(pin=[OFTEN], store={"max_size": "400 KB"})
    await _until_pinned(mirror, old)
    new = _app(upstream, 2)
    clock.advance(3600)
    await _until_pinned(mirror, new)
    await _flood(upstream, mirror, *range(10, 18))
    assert _names(new) <= on_disk(mirror.store_root)
    assert not on_disk(mirror.store_root) >= _names(old)


async def test_while_a_new_version_cannot_be_had_whole_the_one_before_stays(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    old = _app(upstream, 1)
    mirror = await start_mirror(pin=[OFTEN], store={"max_size": "400 KB"})
    await _until_pinned(mirror, old)
    fault = upstream.fault(kind="blob", repository="library/app", status=404)
    new = _app(upstream, 2)
    clock.advance(3600)
    await mirror.until_metric("mirror_pins", 1, state="incomplete")
    await _flood(upstream, mirror, *range(10, 18))
    assert _names(old) <= on_disk(mirror.store_root)
    await mirror.stop()
    upstream.faults.remove(fault)
    mirror = await start_mirror(pin=[OFTEN], store={"max_size": "400 KB"})
    await _until_pinned(mirror, new)


async def test_only_the_platforms_that_are_named_are_fetched(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    platforms = [("amd64", ""), ("arm64", "v8"), ("arm", "v6"), ("arm", "v7")]
    members = [
        image(
            random_layer(SIZE, seed=number),
            architecture=name,
            variant=variant,
        )
        for number, (name, variant) in enumerate(platforms)
    ]
    upstream.add(index(*members), "library/app", "1")
    wanted = ["linux/amd64", "linux/arm64", "linux/arm/v7"]
    mirror = await start_mirror(pin=[{"image": "docker.io/library/app:1", "platforms": wanted}])
    await _until_pinned(mirror, members[0], members[1], members[3])
    assert members[2].digest.removeprefix("sha256:") not in on_disk(mirror.store_root)
    await mirror.stop()
    mirror = await start_mirror(pin=[{"image": "app:1"}])
    await _until_pinned(mirror, *members)


async def test_what_is_larger_than_the_store_is_refused_and_costs_nobody_anything(
    upstream: ScriptedRegistry, start_mirror: StartMirror, caplog: pytest.LogCaptureFixture
) -> None:
    app = _app(upstream, 1)
    large = image(*(random_layer(SIZE, seed=seed) for seed in range(2, 6)))
    upstream.add(large, "library/large", "1")
    pins = [{"image": "app:1"}, {"image": "large:1", "refresh": "50ms"}]
    with caplog.at_level(logging.ERROR):
        mirror = await start_mirror(pin=pins, store={"max_size": "250 KB"})
        await _until_pinned(mirror, app)
        await mirror.until_metric("mirror_pins", 1, state="refused")
    [line] = [it for it in caplog.records if "pin refused" in it.message]
    assert "docker.io/library/large:1" in line.getMessage()
    assert "store.max_size" in line.getMessage()
    assert [it for it in upstream.asked("blob") if it.repository == "library/large"] == []
    assert _names(app) <= on_disk(mirror.store_root)


async def test_what_is_no_more_pinned_may_leave(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    mirror = await start_mirror(pin=[{"image": "app:1"}], store={"max_size": "400 KB"})
    await _until_pinned(mirror, app)
    await mirror.stop()
    mirror = await start_mirror(store={"max_size": "400 KB"})
    await _flood(upstream, mirror, *range(10, 18))
    assert not on_disk(mirror.store_root) >= _names(app)


async def test_a_pinned_blob_that_was_damaged_is_fetched_again_by_itself(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    mirror = await start_mirror(pin=[OFTEN])
    await _until_pinned(mirror, app)
    await mirror.stop()
    [path] = mirror.store_root.glob(f"blobs/sha256/*/{app.layers[0].removeprefix('sha256:')}")
    rot(path)
    path.write_bytes(b"")
    mirror = await start_mirror(pin=[OFTEN])
    await mirror.client.blob("app", app.layers[0])
    await _until_pinned(mirror, app)
    assert path.stat().st_size


async def test_a_mirror_that_dies_while_it_fetches_a_pin_goes_on_where_it_was(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app = _app(upstream, 1, size=4_000_000)
    layer = app.layers[0]
    gate = upstream.hold(layer, after=2_000_000)
    upstreams = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path, upstreams, pin=[{"image": "app:1"}]) as mirror:
        await gate.reached()
        partial = mirror.store_root / "partial" / "docker.io" / layer.replace(":", "-")

        async def has_come() -> bool:
            return partial.exists() and partial.stat().st_size >= 2_000_000

        await until(has_come)
        await mirror.process.kill()
        gate.open()
        upstream.forget()
        await mirror.process.start()
        await _until_pinned_there(mirror.store_root, app)
        assert upstream.bytes_sent(layer) <= 2_100_000


async def _until_pinned_there(root: Path, app: Image) -> None:
    async def is_so() -> bool:
        return _names(app) <= on_disk(root)

    await until(is_so)
