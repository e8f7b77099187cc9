"""`mirror verify` and `mirror rebuild`: by a mirror that runs, and on a store where none does."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mirror.oci.compact import pack
from mirror.oci.digest import parse_digest
from tests.conftest import StartMirror
from tests.support.client import Client, client
from tests.support.images import Image, image, index, random_layer
from tests.support.mirror import InnerMirror, MirrorProcess, running_mirror, upstream_at
from tests.support.process import free_port, run
from tests.support.require import require_root
from tests.support.upstream import ScriptedRegistry
from tests.unit.storage.opening import quarantined, rot

SIZE = 700_000  # more than is answered from memory
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "library/app", "1")


def _path(root: Path, digest: str) -> Path:
    [path] = root.glob(f"blobs/sha256/*/{digest.removeprefix('sha256:')}")
    return path


async def _pull(mirror: Client, name: str, reference: str, app: Image) -> None:
    assert (await mirror.manifest(name, reference)).status == 200
    for digest in app.blobs:
        assert (await mirror.blob(name, digest)).digest == digest


async def _verify(mirror: InnerMirror, *names: str, **settings: Any) -> list[dict[str, Any]]:
    async with client(mirror.admin_url) as admin, admin.open(
        "/api/v1/verify", method="POST",
        data=json.dumps({"names": names}).encode(), **({"headers": JSON} | settings),
    ) as answer:  # fmt: skip
        assert answer.status == 200, await answer.text()
        return [json.loads(line) for line in (await answer.text()).splitlines()]


async def _mirror(mirror: MirrorProcess, verb: str, *arguments: str) -> tuple[int, str, str]:
    config = mirror.store_root.parent / "mirror.toml"
    ended: subprocess.CompletedProcess[str] = await run(
        sys.executable, "-m", "mirror", verb, "--config", config, *arguments, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


# By a mirror that runs


async def test_damage_in_what_is_served_from_memory_is_found_and_gone_at_every_worker(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(server={"workers": 2})
    await _pull(mirror.client, "app", "1", app)
    await mirror.until_metric("mirror_store_blobs", 3)
    rotten = [app.digest, *app.blobs]
    for digest in rotten:
        rot(_path(mirror.store_root, digest))
    steps = await _verify(mirror)
    assert steps[0]["step"] == "total"
    assert (steps[0]["blobs"], {step["finding"] for step in steps[1:]}) == (3, {"damaged"})
    assert {step["digest"] for step in steps[1:]} == {*rotten}
    assert await mirror.metric("mirror_damaged_blobs_total") == 3
    assert await mirror.metric("mirror_store_bytes") == 0
    upstream.forget()
    for _ in range(2):
        async with client(mirror.url) as other:  # of another worker
            await _pull(other, "app", "1", app)
    assert len(upstream.asked("blob", method="GET")) == len(app.blobs)
    assert len(quarantined(mirror.store_root)) == 3


async def test_only_what_an_image_consists_of_is_hashed(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    other = image(random_layer(SIZE, seed=2))
    both = upstream.add(index(app, other), "library/both", "latest")
    mirror = await start_mirror()
    assert (await mirror.client.manifest("both", "latest")).status == 200
    assert (await mirror.client.manifest("both", app.digest)).status == 200
    for digest in app.blobs:
        assert (await mirror.client.blob("both", digest)).digest == digest
    alone = upstream.add_blob(b"alone", "library/both")
    assert (await mirror.client.blob("both", alone)).digest == alone
    await mirror.until_metric("mirror_store_blobs", 5)
    total, *checked = await _verify(mirror, "both")
    assert {step["digest"] for step in checked} == {both.digest, app.digest, *app.blobs}
    assert total["blobs"] == len(checked) == 4
    assert {step["finding"] for step in checked} == {"right"}
    [_, blob] = await _verify(mirror, alone)
    assert blob == {"step": "checked", "digest": alone, "size": 5, "finding": "right"}
    unknown, nothing = await _verify(mirror, "docker.io/library/nothing:1")
    assert unknown == {"step": "unknown", "name": "docker.io/library/nothing:1"}
    assert nothing == {"step": "total", "blobs": 0, "bytes": 0}


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b"{}", {"Content-Type": "text/plain"}, 415),  # what a web page may send
        (b"", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", JSON | {"Host": "evil.example"}, 421),  # rebinding
        (b"{}", JSON | {"Sec-Fetch-Site": "cross-site"}, 403),
        (b"{", JSON, 400),
        (b'{"names": ["Not An Image"]}', JSON, 400),
        (b'{"names": ["sha256:1"]}', JSON, 400),
        (b'{"name": "app"}', JSON, 400),
    ],
)
async def test_nothing_is_verified_for_web_pages_and_for_what_makes_no_sense(
    start_mirror: StartMirror, data: bytes, headers: dict[str, str], status: int
) -> None:
    mirror = await start_mirror()
    async with client(mirror.admin_url) as admin, admin.open(
        "/api/v1/verify", method="POST", data=data, headers=headers
    ) as answer:  # fmt: skip
        assert answer.status == status
        assert answer.content_type == "application/problem+json"
    async with client(mirror.admin_url) as admin:
        assert (await admin.get("/api/v1/verify")).status == 405
        assert (await mirror.client.get("/api/v1/verify")).status == 404


# From the command line


async def test_a_store_is_verified_where_a_mirror_runs_and_where_none_does(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        await _pull(mirror.client, "app", "1", app)
        await mirror.until_metric("mirror_store_blobs", 3)
        [layer] = app.layers
        for is_running in (True, False):
            if not is_running:
                await mirror.process.stop()
            status, said, _ = await _mirror(mirror, "verify")
            assert (status, said.partition(":")[0]) == (0, "all is well")
            status, said, _ = await _mirror(mirror, "verify", "app:1", "--json")
            steps = [json.loads(line) for line in said.splitlines()]
            assert (status, len(steps)) == (0, 4)
            assert {step["digest"] for step in steps[1:]} == {app.digest, *app.blobs}
            status, said, _ = await _mirror(mirror, "verify", "nginx")
            assert (status, said) == (1, "nginx: nothing of it is here\n")
            status, _, said = await _mirror(mirror, "verify", "sha256:1")
            assert (status, said.startswith("mirror: sha256:1")) == (1, True)
        rot(_path(mirror.store_root, layer))
        status, said, _ = await _mirror(mirror, "verify", "app:1")
        assert (status, said.split(" ")[:3]) == (1, [layer, "is", "damaged,"])
        assert quarantined(mirror.store_root) == {layer.replace(":", "-")}
        assert (await _mirror(mirror, "verify"))[0] == 0
        await mirror.process.start()
        upstream.forget()
        await _pull(mirror.client, "app", "1", app)
        assert upstream.asked("blob", method="GET", reference=layer)


async def test_an_index_is_made_anew_from_blobs_that_are_what_they_should_be(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    other = upstream.add_blob(random_layer(SIZE, seed=3).blob, "library/app")
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        await _pull(mirror.client, "app", "1", app)
        assert (await mirror.client.blob("app", other)).digest == other
        await mirror.until_metric("mirror_store_blobs", 4)
        status, _, said = await _mirror(mirror, "rebuild")
        assert (status, said.startswith("mirror: another mirror uses")) == (1, True)
        await mirror.process.stop()
        root = mirror.store_root
        rot(_path(root, other))
        (root / "index.sqlite3").write_bytes(b"garbage")
        status, said, _ = await _mirror(mirror, "rebuild")
        assert (status, said.split(" ")[:3]) == (1, [other, "is", "damaged,"])
        assert (root / "index.sqlite3.old").read_bytes() == b"garbage"
        assert quarantined(root) == {other.replace(":", "-")}
        with closing(sqlite3.connect(root / "index.sqlite3")) as rebuilt:
            rows = rebuilt.execute(
                "SELECT digest, is_manifest, proved_on > 1 FROM blobs ORDER BY digest"
            ).fetchall()
        assert rows == sorted(
            (pack(parse_digest(digest)), int(digest == app.digest), 1)
            for digest in [app.digest, *app.blobs]
        )
        status, said, _ = await _mirror(mirror, "rebuild", "--json")
        findings = {json.loads(line).get("finding") for line in said.splitlines()}
        assert (status, findings) == (0, {None, "right"})
        await mirror.process.start()
        upstream.forget()
        await _pull(mirror.client, "app", app.digest, app)
        assert upstream.asked() == []


async def test_where_the_admin_port_is_somebody_elses_it_says_so(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    upstreams = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path, upstreams) as mirror:
        config = tmp_path / "mirror.toml"
        text = config.read_text()
        config.write_text(text.replace(mirror.admin_host, f"127.0.0.1:{free_port()}"))
        status, _, said = await _mirror(mirror, "verify")
        assert status == 1
        assert "a mirror uses the store, and none answers at 127.0.0.1:" in said
        config.write_text(text.replace(mirror.admin_host, upstream.host))
        status, _, said = await _mirror(mirror, "verify")
        assert (status, "is no mirror of this version" in said) == (1, True)


@pytest.mark.parametrize(("owner", "name"), [(1, "daemon"), (4_000_000, "4000000")])
async def test_root_leaves_nothing_in_a_store_that_the_mirrors_user_could_not_use(
    upstream: ScriptedRegistry, tmp_path: Path, owner: int, name: str
) -> None:
    require_root()  # who else may give a store to somebody
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        await mirror.process.stop()
        before = {path: path.stat().st_mtime_ns for path in mirror.store_root.rglob("*")}
        os.chown(mirror.store_root, owner, -1)
        for verb in ("verify", "rebuild"):
            status, _, said = await _mirror(mirror, verb)
            assert (status, f"{name}'s: run this as that user" in said) == (1, True)
        assert {path: path.stat().st_mtime_ns for path in mirror.store_root.rglob("*")} == before


@pytest.mark.parametrize("is_running", [True, False])
async def test_who_may_not_look_into_the_store_is_told_who_may(
    upstream: ScriptedRegistry, tmp_path: Path, *, is_running: bool
) -> None:
    without_privileges = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        if not is_running:
            await mirror.process.stop()
        mirror.store_root.chmod(0)
        for verb in (["verify"], ["rebuild"], ["pins"], ["rm", "a"], ["gc"], ["why", "a"]):
            if is_running and verb[0] == "why":
                continue  # it is told by the mirror
            ended = await run(
                *without_privileges, sys.executable, "-m", "mirror", *verb, "--config",
                tmp_path / "mirror.toml", check=False,
            )  # fmt: skip
            assert (ended.returncode, ended.stdout) == (1, "")
            assert "run this as the mirror's user" in ended.stderr, verb
            assert "Traceback" not in ended.stderr
        mirror.store_root.chmod(0o700)


async def test_where_there_is_no_store_none_is_made(tmp_path: Path) -> None:
    config = tmp_path / "mirror.toml"
    config.write_text(f'[store]\nroot = "{tmp_path / "nowhere"}"\n')
    for verb in ("verify", "rebuild"):
        ended = await run(sys.executable, "-m", "mirror", verb, "--config", config, check=False)
        assert (ended.returncode, "is no mirror's store" in ended.stderr) == (1, True)
    assert not (tmp_path / "nowhere").exists()


async def test_a_broken_configuration_is_exit_2(tmp_path: Path) -> None:
    broken = tmp_path / "mirror.toml"
    broken.write_text("[sever]\n")
    for verb in ("verify", "rebuild"):
        ended = await run(
            sys.executable, "-m", "mirror", verb, "--config", broken, check=False
        )  # fmt: skip
        assert ended.returncode == 2
