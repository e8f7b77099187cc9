"""Images that are fetched before anybody asks: by command, by lists, and by the clock."""

import json
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
from tests.support.registry import running_registry
from tests.support.upstream import RateLimit, ScriptedRegistry
from tests.unit.storage.opening import on_disk

SIZE = 300_000  # more than is answered from memory


def _app(upstream: ScriptedRegistry, seed: int, name: str = "app", tag: str = "1") -> Image:
    layers = [random_layer(SIZE, seed=seed), random_layer(SIZE, seed=seed + 1000)]
    return upstream.add(image(*layers), f"library/{name}", tag)


async def _ended(mirror: InnerMirror | MirrorProcess) -> Any:
    """The one job there is, once it has ended."""
    jobs: list[Any] = []

    async def is_over() -> bool:
        jobs[:] = (await ask(mirror, "/warm"))["jobs"]
        return bool(jobs) and all(job["ended_at"] for job in jobs)

    await until(is_over)
    return jobs[-1]


# By command


async def test_what_is_warmed_is_served_while_upstream_is_away(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app, other = _app(upstream, 1), _app(upstream, 2, "other")
    mirror = await start_mirror()
    await pull(mirror.client, "other", other)
    await mirror.until_metric("mirror_store_blobs", 4)
    job = await ask(mirror, "/warm", {"images": ["app:1", "other:1", "app:1"]})
    assert job["wanted"] == ["docker.io/library/app:1", "docker.io/library/other:1"]
    one, two = (await _ended(mirror))["images"]
    assert (one["state"], one["here_blobs"], one["fetched_blobs"]) == ("done", 1, 3)
    assert (two["state"], two["here_blobs"], two["fetched_blobs"]) == ("done", 4, 0)
    assert one["fetched_bytes"] > 2 * SIZE
    await upstream.stop()
    await pull(mirror.client, "app", app)


async def test_what_another_repository_has_brought_is_confirmed_and_not_fetched_again(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    async with ScriptedRegistry() as elsewhere:
        app = _app(upstream, 1)
        elsewhere.add(app, "org/app", "1")
        mirror = await start_mirror(
            {"docker.io": upstream_at(upstream.url), "ghcr.io": upstream_at(elsewhere.url)}
        )
        await pull(mirror.client, "app", app)
        await mirror.until_metric("mirror_store_blobs", 4)
        await ask(mirror, "/warm", {"images": ["ghcr.io/org/app:1"]})
        [one] = (await _ended(mirror))["images"]
        assert (one["state"], one["fetched_blobs"]) == ("done", 0)
        assert elsewhere.asked("blob", method="GET") == []
        await elsewhere.stop()
        await pull(mirror.client, "ghcr.io/org/app", app)


async def test_where_one_fails_the_others_are_fetched_and_it_is_said_why(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app, large = _app(upstream, 1), image(*(random_layer(SIZE, seed=it) for it in range(5, 10)))
    upstream.add(large, "library/large", "1")
    mirror = await start_mirror(store={"max_size": "1 MB"})
    await ask(mirror, "/warm", {"images": ["nothing:1", "large:1", "app:1", "app:x*"]})
    job = await _ended(mirror)
    states = {it["image"].rpartition("/")[2]: it["state"] for it in job["images"]}
    assert states == {
        "nothing:1": "failed",
        "large:1": "failed",
        "app:1": "done",
        "app:x*": "failed",
    }
    assert len(job["failed"]) == 3
    assert any("store.max_size" in it for it in job["failed"])
    assert names_of(app) <= on_disk(mirror.store_root)


async def test_tags_are_named_by_a_pattern_and_only_the_platforms_that_are_named_are_fetched(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    members = [
        image(random_layer(SIZE, seed=it), architecture=name)
        for it, name in enumerate(("amd64", "arm64"))
    ]
    upstream.add(index(*members), "library/python", "3.12-slim")
    old = _app(upstream, 7, "python", "2.7-slim")
    slim = _app(upstream, 8, "python", "3.9-slim")
    _app(upstream, 9, "python", "3.9")
    mirror = await start_mirror()
    await ask(mirror, "/warm", {"images": ["python:3.*-slim"], "platforms": ["linux/arm64"]})
    job = await _ended(mirror)
    assert [it["image"].partition(":")[2] for it in job["images"]] == ["3.12-slim", "3.9-slim"]
    there = on_disk(mirror.store_root)
    assert names_of(slim, members[1]) <= there
    assert members[0].digest.removeprefix("sha256:") not in there
    assert old.digest.removeprefix("sha256:") not in there


async def test_of_very_many_tags_that_are_like_a_pattern_a_bounded_number_is_fetched(
    upstream: ScriptedRegistry, start_mirror: StartMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.pull.warm.warming.MOST_IMAGES", 3)
    for number in range(5):
        _app(upstream, number, tag=f"1.{number}")
    mirror = await start_mirror()
    await ask(mirror, "/warm", {"images": ["app:1.*", "app:1.?"]})
    job = await _ended(mirror)
    assert [it["image"].partition(":")[2] for it in job["images"]] == ["1.2", "1.3", "1.4"]


async def test_what_a_client_waits_for_goes_first_and_what_is_warmed_is_fetched_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    urgent = upstream.add_blob(random_layer(SIZE, seed=50).blob, "library/urgent")
    gate = upstream.hold(app.layers[0], after=SIZE // 2)
    mirror = await start_mirror(fill={"max_active": 1})
    await ask(mirror, "/warm", {"images": ["app:1"]})
    await gate.reached()
    assert (await mirror.client.blob("urgent", urgent)).digest == urgent
    gate.open()
    [one] = (await _ended(mirror))["images"]
    assert one["state"] == "done"
    await pull(mirror.client, "app", app)
    assert upstream.bytes_sent(app.layers[0]) <= 1.7 * SIZE


async def test_a_rate_limit_is_waited_for(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    upstream.fault(kind="tag", status=429, headers={"Retry-After": "1"}, times=1)
    mirror = await start_mirror()
    await ask(mirror, "/warm", {"images": ["app:1"]})
    seen = set[str]()

    async def is_over() -> bool:
        [job] = (await ask(mirror, "/warm"))["jobs"]
        seen.update(it["state"] for it in job["images"])
        return bool(job["ended_at"])

    await until(is_over)
    assert {"pausing", "done"} <= seen
    assert names_of(app) <= on_disk(mirror.store_root)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"images": []}, 400),
        ({"images": ["Not An Image"]}, 409),
        ({"images": ["ghcr.io/org/app"]}, 409),
        ({"images": ["app:[ab]*"]}, 409),
        ({"images": ["app"], "platforms": ["amiga"]}, 409),
    ],
)
async def test_what_makes_no_sense_is_not_begun(
    start_mirror: StartMirror, sent: dict[str, Any], status: int
) -> None:
    mirror = await start_mirror()
    await ask(mirror, "/warm", sent, status)
    assert (await ask(mirror, "/warm"))["jobs"] == []


async def test_a_mirror_that_is_killed_goes_on_and_fetches_no_byte_twice(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    size = 4_000_000
    app = upstream.add(image(random_layer(size, seed=1)), "library/app", "1")
    layer = app.layers[0]
    gate = upstream.hold(layer, after=size // 2)
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        await ask(mirror, "/warm", {"images": ["app:1"]})
        await gate.reached()
        partial = mirror.store_root / "partial" / "docker.io" / layer.replace(":", "-")

        async def has_come() -> bool:
            return partial.exists() and partial.stat().st_size >= size // 2

        await until(has_come)
        await mirror.process.kill()
        gate.open()
        upstream.forget()
        await mirror.process.start()
        job = await _ended(mirror)
        assert (job["done"], job["failed"]) == (1, [])
        assert upstream.bytes_sent(layer) <= size // 2 + 100_000
        assert names_of(app) <= on_disk(mirror.store_root)
        await mirror.process.stop()
        await mirror.process.start()
        [job] = (await ask(mirror, "/warm"))["jobs"]  # what came of it is known still
        assert (job["done"], job["images"]) == (1, [])


async def test_who_watches_is_told_how_far_each_layer_is(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    app = _app(upstream, 1)
    gate = upstream.hold(app.layers[0], after=SIZE // 2)
    mirror = await start_mirror()
    await ask(mirror, "/warm", {"images": ["app:1"]})
    await gate.reached()
    async with client(mirror.admin_url) as admin, admin.open("/api/v1/warm/events") as answer:
        assert answer.content_type == "text/event-stream"
        while True:
            line = await answer.content.readline()
            if not line.startswith(b"data: "):
                continue
            [job] = json.loads(line.removeprefix(b"data: "))["jobs"]
            layers = {it["digest"]: it for it in job["images"][0]["layers"]}
            if layers.get(app.layers[0], {}).get("written"):
                break
    assert layers[app.layers[0]]["size"] > layers[app.layers[0]]["written"] > 0
    gate.open()
    await _ended(mirror)


# By the clock


async def test_what_is_scheduled_is_fetched_at_its_time_and_told_afterwards(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    app = _app(upstream, 1)
    warm = [{"image": "docker.io/library/app:*", "at": "0 * * * *"}]
    mirror = await start_mirror(warm=warm)
    told = await ask(mirror, "/warm")
    [schedule] = told["schedules"]
    assert (told["jobs"], schedule["last_at"]) == ([], None)
    assert clock() < schedule["next_at"] <= clock() + 3600
    assert upstream.asked() == []
    clock.advance(3600)
    job = await _ended(mirror)
    assert (job["is_scheduled"], job["done"]) == (True, 1)
    assert names_of(app) <= on_disk(mirror.store_root)
    [schedule] = (await ask(mirror, "/status"))["schedules"]
    assert (schedule["last_done"], schedule["last_failed"]) == (1, [])
    await mirror.stop()
    mirror = await start_mirror(warm=warm)
    [schedule] = (await ask(mirror, "/status"))["schedules"]
    assert schedule["last_done"] == 1
    await upstream.stop()
    clock.advance(3600)

    async def has_failed() -> bool:
        [schedule] = (await ask(mirror, "/status"))["schedules"]
        return bool(schedule["last_failed"])

    await until(has_failed, within=60)
    health = await ask(mirror, "/status")
    assert any("was not fetched" in it["what"] for it in health["health"]["problems"])


async def test_a_schedule_goes_on_when_a_clock_that_was_years_ahead_is_put_right(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    _app(upstream, 1)
    clock.advance(70 * 365 * 86_400)
    mirror = await start_mirror(warm=[{"image": "docker.io/library/app:*", "at": "0 * * * *"}])
    clock.set_back(70 * 365 * 86_400)

    async def is_soon() -> bool:
        [schedule] = (await ask(mirror, "/warm"))["schedules"]
        return bool(clock() < schedule["next_at"] <= clock() + 3600)

    await until(is_soon, within=60)
    clock.advance(3600)
    job = await _ended(mirror)
    assert (job["is_scheduled"], job["done"]) == (True, 1)


async def test_pulls_that_are_for_people_are_left_to_them(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    for number in range(4):
        _app(upstream, number, tag=f"{number}")
    upstream.rate_limit = RateLimit(limit=100, remaining=52)
    warm = [{"image": "docker.io/library/app:*", "at": "@hourly", "leave_quota": 50}]
    mirror = await start_mirror(warm=warm)
    clock.advance(3600)
    job = await _ended(mirror)
    assert upstream.rate_limit.remaining == 50
    assert (job["done"], len(job["failed"])) == (2, 2)
    assert "people" in job["failed"][0]
    upstream.forget()
    clock.advance(3600)
    await _ended(mirror)
    assert upstream.rate_limit.remaining == 50
    assert upstream.asked("manifest", method="GET") == []


async def test_a_schedule_keeps_to_its_bandwidth_until_a_client_waits(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    size = 16_000_000
    app = upstream.add(image(random_layer(size, seed=1)), "library/app", "1")
    warm = [{"image": "docker.io/library/app:1", "at": "@hourly", "max_bandwidth": "64 KiB"}]
    mirror = await start_mirror(warm=warm)
    clock.advance(3600)

    async def has_begun() -> bool:
        jobs = (await ask(mirror, "/warm"))["jobs"]
        layers = [it for job in jobs for image in job["images"] for it in image["layers"]]
        return any(it["digest"] == app.layers[0] and it["written"] for it in layers)

    await until(has_begun)
    for _ in range(200):  # it would take four minutes, and otherwise as long as this
        [job] = (await ask(mirror, "/warm"))["jobs"]
        assert job["ended_at"] is None
    assert (await mirror.client.blob("app", app.layers[0])).digest == app.layers[0]
    job = await _ended(mirror)
    assert job["done"] == 1
    assert upstream.bytes_sent(app.layers[0]) < 1.1 * size


# From the command line, with a real registry


async def test_the_command_fetches_what_lists_name_and_says_what_came(tmp_path: Path) -> None:
    async with running_registry(tmp_path / "registry") as registry:
        one = await registry.push(image(random_layer(SIZE, seed=1)), "org/one", "1")
        two = await registry.push(image(random_layer(SIZE, seed=2)), "org/two", "1")
        compose = tmp_path / "compose.yaml"
        compose.write_text("services:\n  a: {image: 'reg.test/org/one:1'}\n  b: {build: .}\n")
        upstreams = {"reg.test": upstream_at(registry.url)}
        async with running_mirror(tmp_path / "mirror", upstreams) as mirror:
            status, said, _ = await command(mirror, "warm", "--file", compose)
            first, last = said.splitlines()
            assert status == 0
            assert first.startswith("reg.test/org/one:1: ")
            assert " came (2) in " in first
            assert last.startswith("1 of 1 images are here: ")
            status, said, _ = await command(
                mirror, "warm", "reg.test/org/two:1", "reg.test/org/none:1", "--json"
            )
            states = [json.loads(line)["state"] for line in said.splitlines()]
            assert (status, sorted(states)) == (1, ["done", "failed"])
            assert names_of(one, two) <= on_disk(mirror.store_root)
            await registry.process.stop()
            copied = await run(
                "skopeo", "inspect", "--raw", "--tls-verify=false",
                f"docker://{mirror.host}/reg.test/org/one:1",
            )  # fmt: skip
            assert copied.stdout.encode() == one.manifest
            await mirror.process.stop()
            status, _, complaint = await command(mirror, "warm", "reg.test/org/one:1")
            assert (status, complaint.partition(" at ")[0]) == (1, "mirror: no mirror answers")


async def test_links_that_were_lost_are_made_anew_from_what_upstream_confirms(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    one, two = (image(random_layer(SIZE, seed=it)) for it in (1, 2))
    upstream.add(index(one, two), "library/app", "1")
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        assert (await mirror.client.manifest("app", "1")).status == 200
        await pull(mirror.client, "app", one, one.digest)  # of one platform
        await mirror.until_metric("mirror_store_blobs", 4)
        await mirror.process.stop()
        for path in mirror.store_root.glob("*.sqlite3*"):
            path.unlink()
        status, _, _ = await command(mirror, "rebuild", "--image", "app:1")
        assert status == 0
        upstream.forget()
        await mirror.process.start()
        job = await _ended(mirror)
        assert (job["name"], job["done"]) == ("rebuild", 1)
        assert upstream.asked("blob", method="GET") == []
        assert two.digest.removeprefix("sha256:") not in on_disk(mirror.store_root)
        await upstream.stop()
        assert (await mirror.client.manifest("app", "1")).status == 200
        await pull(mirror.client, "app", one, one.digest)
