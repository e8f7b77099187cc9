"""Images that operators pin, remove and collect: by a mirror that runs, and where none does."""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartMirror
from tests.support.client import client
from tests.support.clock import FakeClock
from tests.support.images import Image, image, index, random_layer
from tests.support.mirror import InnerMirror, MirrorProcess, running_mirror, upstream_at
from tests.support.operators import ask, command, names_of, pull
from tests.support.process import run, until
from tests.support.upstream import ScriptedRegistry
from tests.unit.storage.opening import on_disk

SIZE = 300_000  # more than is answered from memory
JSON = {"Content-Type": "application/json"}
APP = "docker.io/library/app:1"


def _app(upstream: ScriptedRegistry, seed: int, *shared: int, name: str = "app") -> Image:
    layers = [random_layer(SIZE, seed=it) for it in (seed, *shared)]
    return upstream.add(image(*layers), f"library/{name}", "1")


async def _until_pinned(mirror: InnerMirror | MirrorProcess, app: Image) -> None:
    async def is_so() -> bool:
        [pin] = (await ask(mirror, "/pins"))["pins"]
        return bool(pin["state"] == "complete") and names_of(app) <= on_disk(mirror.store_root)

    await until(is_so)


# Pins


async def test_an_image_that_is_pinned_by_command_is_fetched_and_pinned_after_restarts_too(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    mirror = await start_mirror()
    answer = await ask(mirror, "/pins", {"image": "app:1"})
    assert [(it["image"], it["source"]) for it in answer["pins"]] == [(APP, "operator")]
    await _until_pinned(mirror, app)
    await mirror.stop()
    mirror = await start_mirror(store={"max_size": "1 MB"})
    await _until_pinned(mirror, app)
    for seed in range(10, 16):
        digest = upstream.add_blob(random_layer(SIZE, seed=seed).blob, "library/flood")
        assert (await mirror.client.blob("flood", digest)).digest == digest
    assert names_of(app) <= on_disk(mirror.store_root)
    assert (await ask(mirror, "/pins/remove", {"image": "app:1"}))["pins"] == []
    for seed in range(20, 26):
        digest = upstream.add_blob(random_layer(SIZE, seed=seed).blob, "library/flood")
        assert (await mirror.client.blob("flood", digest)).digest == digest
    assert not names_of(app) <= on_disk(mirror.store_root)
    await mirror.stop()
    mirror = await start_mirror()
    assert (await ask(mirror, "/pins"))["pins"] == []


async def test_what_the_configuration_pins_only_the_configuration_unpins(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    mirror = await start_mirror(pin=[{"image": "app:1"}])
    await _until_pinned(mirror, app)
    for path in ("/pins/remove", "/pins"):
        refusal = await ask(mirror, path, {"image": "app:1"}, 409)
        assert "by the configuration" in refusal["detail"]
    [pin] = (await ask(mirror, "/pins"))["pins"]
    assert (pin["source"], pin["blobs"]) == ("configuration", 3)
    assert "not pinned" in (await ask(mirror, "/pins/remove", {"image": "b"}, 404))["detail"]


async def test_a_pin_that_is_larger_than_the_store_is_refused_and_not_remembered(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    _app(upstream, 1, 2, 3)
    mirror = await start_mirror(store={"max_size": "500 KB"})
    refusal = await ask(mirror, "/pins", {"image": "app:1"}, 409)
    assert "store.max_size" in refusal["detail"]
    assert upstream.asked("blob") == []
    assert (await ask(mirror, "/pins"))["pins"] == []
    await mirror.stop()
    mirror = await start_mirror()
    assert (await ask(mirror, "/pins"))["pins"] == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"image": "Not An Image"}, 409),
        ({"image": "ghcr.io/org/app:1"}, 409),
        ({"image": "app:1", "platforms": ["amiga"]}, 409),
        ({"image": "app:1", "refresh": -1}, 400),
        ({"image": "app:1", "refresh": 0}, 400),
        ({"image": "app:1", "refresh": 1e308}, 400),
        ({"image": "app:1", "for": "ever"}, 400),
        ({"image": "nothing:1"}, 409),
    ],
)
async def test_a_pin_that_makes_no_sense_is_refused(
    start_mirror: StartMirror, sent: dict[str, Any], status: int
) -> None:
    mirror = await start_mirror()
    await ask(mirror, "/pins", sent, status)
    assert (await ask(mirror, "/pins"))["pins"] == []


async def test_while_upstream_is_down_an_image_can_be_pinned_and_what_is_here_stays(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    mirror = await start_mirror(store={"max_size": "1 MB"})
    await pull(mirror.client, "app", app)
    await mirror.until_metric("mirror_store_blobs", 3)
    await upstream.stop()
    [pin] = (await ask(mirror, "/pins", {"image": "app:1"}))["pins"]
    assert pin["blobs"] == 3
    await ask(mirror, "/pins", {"image": "new:1"})
    pins = (await ask(mirror, "/pins"))["pins"]
    assert {it["image"]: it["blobs"] for it in pins} == {APP: 3, "docker.io/library/new:1": 0}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        (JSON | {"Sec-Fetch-Site": "cross-site"}, 403),
        (JSON | {"Host": "evil.example"}, 421),
    ],
)
async def test_nothing_is_done_with_images_for_web_pages(
    upstream: ScriptedRegistry, start_mirror: StartMirror, headers: dict[str, str], status: int
) -> None:
    app = _app(upstream, 1)
    mirror = await start_mirror()
    await pull(mirror.client, "app", app)
    await mirror.until_metric("mirror_store_blobs", 3)
    upstream.forget()
    for path in ("/pins", "/pins/remove", "/images/remove", "/tags/forget", "/warm", "/gc"):
        sent = {"images": ["app:1"]} if path == "/warm" else {"image": "app:1"}
        data = json.dumps({} if path == "/gc" else sent).encode()
        async with client(mirror.admin_url) as admin, admin.open(
            f"/api/v1{path}", method="POST", data=data, headers=headers
        ) as answer:  # fmt: skip
            assert answer.status == status
    assert (await ask(mirror, "/pins"))["pins"] == []
    assert (await ask(mirror, "/warm"))["jobs"] == []
    assert on_disk(mirror.store_root) == names_of(app)
    assert upstream.asked() == []


# Removal


async def test_what_only_the_removed_image_needs_goes_and_no_worker_serves_it(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app = _app(upstream, 1, 7)
    other = _app(upstream, 2, 7, name="other")
    upstreams = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path, upstreams, server={"workers": 2}) as mirror:
        for _ in range(2):
            async with client(mirror.url) as one:  # of each worker
                await pull(one, "app", app)
                await pull(one, "other", other)
        await mirror.until_metric("mirror_store_blobs", 7)
        status, said, _ = await command(mirror, "rm", "app:1", "--json")
        assert status == 0
        gone = json.loads(said)
        assert (gone["tags"], gone["blobs"], gone["kept"]) == (["1"], 3, 1)
        assert gone["bytes"] > SIZE
        assert on_disk(mirror.store_root) == names_of(other)
        await upstream.stop()
        for _ in range(2):
            async with client(mirror.url) as one:
                assert (await one.manifest("app", "1")).status >= 400
                assert (await one.manifest("app", app.digest)).status >= 400
                assert (await one.blob("app", app.layers[0])).status >= 400
                assert (await one.blob("app", app.layers[1])).status >= 400  # others' now
                await pull(one, "other", other)
        status, _, complaint = await command(mirror, "rm", "app:1", "other:1")
        assert (status, complaint) == (1, "mirror: app:1: nothing of it is here\n".replace(
            "app:1", APP))  # fmt: skip
        assert on_disk(mirror.store_root) == set()


async def test_a_tag_goes_alone_while_another_means_the_same(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    upstream.add(app, "library/app", "latest")
    mirror = await start_mirror(tags={"fresh_for": "1h"})
    await pull(mirror.client, "app", app)
    await pull(mirror.client, "app", app, "latest")
    await mirror.until_metric("mirror_store_blobs", 3)
    gone = await ask(mirror, "/images/remove", {"image": "app:1"})
    assert (gone["tags"], gone["blobs"], gone["kept"]) == (["1"], 0, 3)
    upstream.forget()
    await pull(mirror.client, "app", app, "latest")
    assert upstream.asked("blob") == []
    new = upstream.add(image(random_layer(SIZE, seed=9)), "library/app", "1")
    assert (await mirror.client.manifest("app", "1")).digest == new.digest
    await ask(mirror, "/images/remove", {"image": "app:1"})
    gone = await ask(mirror, "/images/remove", {"image": f"app@{app.digest}"})
    assert (gone["tags"], gone["blobs"], gone["kept"]) == (["latest"], 3, 0)
    assert on_disk(mirror.store_root) == set()


async def test_what_an_index_that_stays_leads_to_stays(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    one, two = image(random_layer(SIZE, seed=1)), image(random_layer(SIZE, seed=2))
    both = upstream.add(index(one, two), "library/app", "1")
    mirror = await start_mirror()
    await pull(mirror.client, "app", both)
    for member in (one, two):
        await pull(mirror.client, "app", member, member.digest)
    await mirror.until_metric("mirror_store_blobs", 7)
    gone = await ask(mirror, "/images/remove", {"image": f"app@{one.digest}"})
    assert (gone["blobs"], gone["kept"]) == (0, 3)
    gone = await ask(mirror, "/images/remove", {"image": "app:1"})
    assert (gone["blobs"], gone["kept"]) == (7, 0)


async def test_what_is_pinned_is_not_removed(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    upstream.add(app, "library/app", "latest")
    mirror = await start_mirror()
    await ask(mirror, "/pins", {"image": "app:1"})
    await _until_pinned(mirror, app)
    for name in ("app:1", f"app@{app.digest}"):
        assert "unpin" in (await ask(mirror, "/images/remove", {"image": name}, 409))["detail"]
    await pull(mirror.client, "app", app, "latest")
    assert (await ask(mirror, "/images/remove", {"image": "app:latest"}))["kept"] == 3
    assert names_of(app) <= on_disk(mirror.store_root)
    await ask(mirror, "/pins/remove", {"image": "app:1"})
    assert (await ask(mirror, "/images/remove", {"image": "app:1"}))["blobs"] == 3


async def test_who_reads_what_is_removed_reads_it_to_its_end(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    size = 8_000_000
    layer = random_layer(size, seed=1)
    app = upstream.add(image(layer), "library/app", "1")
    mirror = await start_mirror()
    await pull(mirror.client, "app", app)
    await mirror.until_metric("mirror_store_blobs", 3)
    async with mirror.client.open(f"/v2/app/blobs/{app.layers[0]}") as answer:
        begun = await answer.content.readexactly(1000)
        assert (await ask(mirror, "/images/remove", {"image": "app:1"}))["blobs"] == 3
        assert begun + await answer.content.read() == layer.blob


async def test_a_tag_that_is_forgotten_is_asked_for_anew_and_its_image_stays(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    old = _app(upstream, 1)
    mirror = await start_mirror(tags={"fresh_for": "1h"})
    await pull(mirror.client, "app", old)
    new = _app(upstream, 2)
    assert (await mirror.client.manifest("app", "1")).digest == old.digest
    answer = await ask(mirror, "/tags/forget", {"image": "app:1"})
    assert answer == {"image": f"docker.io/library/app@{old.digest}"}
    assert (await mirror.client.manifest("app", "1")).digest == new.digest
    assert names_of(old) <= on_disk(mirror.store_root)
    assert (await ask(mirror, "/tags/forget", {"image": "app:2"}, 404))["status"] == 404
    assert (await ask(mirror, "/tags/forget", {"image": f"app@{old.digest}"}, 409))["detail"]


# Collecting


async def test_what_nothing_on_record_names_goes_and_a_dry_run_only_tells(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    app, other = _app(upstream, 1), _app(upstream, 2, name="other")
    mirror = await start_mirror()
    await pull(mirror.client, "app", app)
    await pull(mirror.client, "other", other)
    await mirror.until_metric("mirror_store_blobs", 6)
    nothing = await ask(mirror, "/gc", {"dry_run": False})
    assert (nothing["blobs"], nothing["partials"], nothing["records"]) == (0, 0, 0)
    await mirror.stop()
    _unlink(mirror.store_root, "library/app")
    mirror = await start_mirror()
    assert (await ask(mirror, "/gc", {}))["blobs"] == 0  # somebody may just have pulled it
    clock.advance(7200)
    told = await ask(mirror, "/gc", {"dry_run": True})
    assert (told["dry_run"], told["blobs"]) == (True, 3)
    assert on_disk(mirror.store_root) == names_of(app) | names_of(other)
    done = await ask(mirror, "/gc", {})
    assert (done["blobs"], done["bytes"]) == (3, told["bytes"])
    assert on_disk(mirror.store_root) == names_of(other)
    await pull(mirror.client, "app", app)


async def test_records_that_have_expired_and_downloads_that_nobody_continues_go(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    app = _app(upstream, 1)
    large = random_layer(4_000_000, seed=3)
    digest = upstream.add_blob(large.blob, "library/app")
    settings: dict[str, Any] = {
        "store": {"forget_after": "2d"}, "fill": {"keep_partial_for": "30d", "attempts": 1},
    }  # fmt: skip
    mirror = await start_mirror(**settings)
    await pull(mirror.client, "app", app)
    gate = upstream.hold(digest, after=2_000_000)
    async with mirror.client.open(f"/v2/app/blobs/{digest}") as answer:
        await answer.content.readexactly(1_000_000)
        await mirror.stop()
    gate.open()
    mirror = await start_mirror(**settings)
    assert (await ask(mirror, "/gc", {}))["partials"] == 0
    await ask(mirror, "/images/remove", {"image": "app:1"})
    await mirror.stop()
    _unlink(mirror.store_root, "library/app")
    settings["fill"]["keep_partial_for"] = "1d"
    mirror = await start_mirror(**settings)
    await pull(mirror.client, "other", _app(upstream, 2, name="other"))
    clock.advance(3 * 86400)
    told = await ask(mirror, "/gc", {"dry_run": True})
    assert told["partials"] == 1
    assert told["partial_bytes"] >= 1_000_000
    assert told["records"] > 0
    done = await ask(mirror, "/gc", {})
    assert (done["partials"], done["partial_bytes"]) == (1, told["partial_bytes"])
    assert done["records"] >= told["records"]
    assert not [it for it in (mirror.store_root / "partial").rglob("*") if it.is_file()]


async def test_where_the_records_were_lost_nothing_is_collected(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    app = _app(upstream, 1)
    mirror = await start_mirror()
    await pull(mirror.client, "app", app)
    await mirror.until_metric("mirror_store_blobs", 3)
    await mirror.stop()
    for path in mirror.store_root.glob("records.sqlite3*"):
        path.unlink()
    mirror = await start_mirror()
    clock.advance(7200)
    assert "mirror warm" in (await ask(mirror, "/gc", {}, 409))["detail"]
    assert on_disk(mirror.store_root) == names_of(app)


def _unlink(root: Path, repository: str) -> None:
    """Have a stopped mirror's records know nothing of what a repository has."""
    with closing(sqlite3.connect(root / "records.sqlite3")) as records:
        records.execute(
            "DELETE FROM links WHERE repository IN (SELECT id FROM repositories WHERE path = ?)",
            (f"docker.io/{repository}",),
        )
        records.commit()


# From the command line, where no mirror runs


async def test_a_stopped_mirrors_images_are_pinned_removed_and_collected(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app, other = _app(upstream, 1), _app(upstream, 2, name="other")
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        await pull(mirror.client, "app", app)
        await pull(mirror.client, "other", other)
        await mirror.until_metric("mirror_store_blobs", 6)
        await mirror.process.stop()
        assert (await command(mirror, "pins"))[:2] == (0, "nothing is pinned\n")
        status, said, _ = await command(mirror, "pin", "app:1", "--json")
        assert (status, json.loads(said)["blobs"]) == (0, 3)
        status, _, complaint = await command(mirror, "rm", "app:1", "other:1")
        assert (status, complaint) == (1, f"mirror: {APP} is pinned: unpin it first\n")
        assert on_disk(mirror.store_root) == names_of(app)
        status, said, _ = await command(mirror, "gc")
        assert (status, said.splitlines()[0]) == (0, "blobs that nothing names: 0")
        await mirror.process.start()
        await _until_pinned(mirror, app)
        status, said, _ = await command(mirror, "pins")
        assert said.startswith(f"{APP}: complete, 3 blobs, ")
        status, said, _ = await command(mirror, "unpin", "app:1", "--json")
        assert (status, json.loads(said)["image"]) == (0, APP)
        status, said, _ = await command(mirror, "gc", "--dry-run")
        assert (status, said.splitlines()[-1]) == (0, "nothing was removed: --dry-run")
        status, _, complaint = await command(mirror, "unpin", "app:1")
        assert (status, complaint) == (1, f"mirror: {APP} is not pinned\n")


async def test_commands_know_an_image_by_every_name_that_its_registry_has(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app = _app(upstream, 1)
    alias, called = "index.docker.io/app:1", "hub.example/library/app:1"
    hub = {**upstream_at(upstream.url), "aliases": ["index.docker.io", "hub.example"]}
    async with running_mirror(tmp_path, {"docker.io": hub}) as mirror:
        await pull(mirror.client, "app", app)
        await mirror.until_metric("mirror_store_blobs", 3)
        for name in (alias, called):
            if name is called:
                await mirror.process.stop()
            status, said, _ = await command(mirror, "pin", name, "--json")
            assert (status, json.loads(said)["image"]) == (0, APP)
            assert await command(mirror, "unpin", name) == (0, f"{APP}: pinned no longer\n", "")
            for verb in ("inspect", "ls", "verify"):
                status, said, _ = await command(mirror, verb, name)
                assert (status, said != "") == (0, True), verb
        assert "app" in (await command(mirror, "why", called))[1]
        await mirror.process.start()
        assert (await command(mirror, "compare", alias))[0] == 0
        status, said, _ = await command(mirror, "warm", called)
        assert (status, APP in said) == (0, True)
        assert (await command(mirror, "rm", alias))[0] == 0
        assert on_disk(mirror.store_root) == set()


async def test_where_nothing_uses_a_store_and_there_is_none_it_is_said(tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text(f'[store]\nroot = "{tmp_path / "none"}"\n')
    for verb in (["pins"], ["rm", "a"], ["gc"], ["pin", "a"], ["unpin", "a"]):
        ended = await run(
            sys.executable, "-m", "mirror", *verb, "--config", file, check=False
        )  # fmt: skip
        assert ended.returncode == 1
        assert "is no mirror's store" in ended.stderr
    assert not (tmp_path / "none").exists()
