"""Certificates and passwords are renewed while clients pull, and a mistake in them ends nothing."""

import asyncio
import datetime as dt
import json
import os
import shutil
import signal
import ssl
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import pytest
import tomli_w
from cryptography import x509

from tests.support.client import client, get
from tests.support.images import digest_of, image, random_bytes, random_layer
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import children_of, run, until
from tests.support.pusher import Pusher
from tests.support.tls import Authority, Identity
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

CERTIFICATE, KEY, HTPASSWD, CA = "server.pem", "server.key", "htpasswd", "ca.pem"


def install(identity: Identity, directory: Path) -> None:
    shutil.copyfile(identity.certificate_file, directory / CERTIFICATE)
    shutil.copyfile(identity.private_key_file, directory / KEY)


def let_in(directory: Path, *names: str) -> None:
    lines = [f"{name}:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}" for name in names]
    (directory / HTPASSWD).write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
async def mirror(
    upstream: ScriptedRegistry, tmp_path: Path, authority: Authority
) -> AsyncIterator[MirrorProcess]:
    install(authority.issue("old"), tmp_path)
    let_in(tmp_path, "old")
    server = {
        "tls_certificate_file": str(tmp_path / CERTIFICATE),
        "tls_private_key_file": str(tmp_path / KEY),
        "htpasswd_file": str(tmp_path / HTPASSWD),
        "workers": 2,
    }
    hub = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path / "mirror", hub, server=server) as running:
        yield running


async def shown(mirror: MirrorProcess) -> str:
    """Whose certificate a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = mirror.host.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return "new" if b"new" in certificate else "old"


async def admits(mirror: MirrorProcess, authority: Authority, name: str) -> bool:
    headers = {"Authorization": aiohttp.encode_basic_auth(name, "secret")}
    async with client(f"https://{mirror.host}", ca_file=str(authority.ca_file)) as one:
        return (await one.get("/v2/", headers=headers)).status == 200


@pytest.mark.parametrize("by", ["signal", "itself"])
async def test_a_renewed_certificate_is_shown_and_no_connection_is_dropped(
    mirror: MirrorProcess, tmp_path: Path, authority: Authority, by: str
) -> None:
    headers = {"Authorization": aiohttp.encode_basic_auth("old", "secret")}
    async with client(f"https://{mirror.host}", ca_file=str(authority.ca_file)) as kept:
        assert (await kept.get("/v2/", headers=headers)).status == 200
        await asyncio.to_thread(install, authority.issue("new"), tmp_path)
        if by == "signal":
            os.kill(mirror.process.pid, signal.SIGHUP)

        async def is_new_everywhere() -> bool:
            return {await shown(mirror) for _ in range(4)} == {"new"}

        await until(is_new_everywhere)
        assert (await kept.get("/v2/", headers=headers)).status == 200
    assert mirror.process.log().count("passwords have been read anew") == 1
    assert await mirror.metric("mirror_reloads_total", outcome="done") == 1
    end = await mirror.metric("mirror_certificate_expiry_timestamp_seconds")
    certificate = (tmp_path / CERTIFICATE).read_bytes()
    assert end == x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()


@pytest.mark.parametrize(
    ("life", "says"), [(dt.timedelta(hours=-1), "has ended"), (dt.timedelta(hours=5), "ends")]
)
async def test_operators_are_told_of_a_certificate_that_ends_until_it_is_renewed(
    mirror: MirrorProcess, tmp_path: Path, authority: Authority, life: dt.timedelta, says: str
) -> None:
    async def problems() -> list[dict[str, str]]:
        told: dict[str, Any] = json.loads((await get(f"{mirror.admin_url}/status")).body)
        return [it for it in told["problems"] if "certificate" in it["what"]]

    async def lasts() -> bool:
        return not await problems()

    async def ends() -> bool:
        return bool(await problems()) and says in (await problems())[0]["what"]

    await asyncio.to_thread(install, authority.issue("new", life=dt.timedelta(days=15)), tmp_path)
    await until(lasts)
    await asyncio.to_thread(install, authority.issue("new", life=life), tmp_path)
    await until(ends)
    (problem,) = await problems()
    assert problem["what"] == f"a certificate in server.tls_certificate_file {says}"
    assert "renew it" in problem["why"]
    config = tmp_path / "mirror" / "mirror.toml"
    shown = await run(sys.executable, "-m", "mirror", "status", "--once", "--config", config)
    assert problem["what"] in " ".join(shown.stdout.split())
    assert problem["what"] in (await get(f"{mirror.admin_url}/")).body.decode()
    await asyncio.to_thread(install, authority.issue("new", life=dt.timedelta(days=15)), tmp_path)
    await until(lasts)


async def test_who_is_no_longer_in_the_password_file_is_let_in_no_longer(
    mirror: MirrorProcess, tmp_path: Path, authority: Authority
) -> None:
    assert await admits(mirror, authority, "old")
    await asyncio.to_thread(let_in, tmp_path, "new")
    os.kill(mirror.process.pid, signal.SIGHUP)

    async def are_exchanged() -> bool:
        return all(
            [
                (await admits(mirror, authority, "new"), await admits(mirror, authority, "old"))
                == (True, False)
                for _ in range(4)
            ]
        )

    await until(are_exchanged)


@pytest.mark.parametrize(
    ("name", "content"), [(CERTIFICATE, "nonsense"), (KEY, ""), (HTPASSWD, "me:not-a-hash")]
)
async def test_a_file_that_makes_no_sense_changes_nothing_and_is_told(
    mirror: MirrorProcess, tmp_path: Path, authority: Authority, name: str, content: str
) -> None:
    await asyncio.to_thread((tmp_path / name).write_text, content)
    os.kill(mirror.process.pid, signal.SIGHUP)
    await mirror.until_metric("mirror_reloads_total", 1, outcome="failed")
    assert await admits(mirror, authority, "old")
    assert await shown(mirror) == "old"

    async def is_told() -> bool:  # lines are gathered for a moment before they are written
        return "what was read before stays in use" in mirror.process.log()

    await until(is_told)


@pytest.mark.parametrize(
    ("name", "content"), [(CERTIFICATE, "nonsense"), (KEY, None), (HTPASSWD, "me:not-a-hash")]
)
async def test_a_worker_that_takes_anothers_place_goes_on_with_what_last_made_sense(
    mirror: MirrorProcess, tmp_path: Path, authority: Authority, name: str, content: str | None
) -> None:
    """Also what has been renewed since the start; and a file that is there again is read again."""
    await asyncio.to_thread(install, authority.issue("new"), tmp_path)
    os.kill(mirror.process.pid, signal.SIGHUP)
    await mirror.until_metric("mirror_reloads_total", 1, outcome="done")
    good = (tmp_path / name).read_bytes()
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content, encoding="utf-8")
    for worker in children_of(mirror.process):
        os.kill(worker, signal.SIGKILL)
    await until(lambda: _log_has(mirror, "what was read before is used", 2), within=30)

    async def serves() -> bool:
        try:
            return [await shown(mirror) for _ in range(4)] == ["new"] * 4
        except OSError:
            return False

    await until(serves, within=30)
    assert await admits(mirror, authority, "old")
    (tmp_path / name).write_bytes(good)
    os.kill(mirror.process.pid, signal.SIGHUP)
    await mirror.until_metric("mirror_reloads_total", 2, outcome="done")


async def _log_has(mirror: MirrorProcess, text: str, times: int) -> bool:
    return mirror.process.log().count(text) >= times


# The settings

SIZE = 3_000_000
APP = image(random_layer(SIZE, seed=1))


@pytest.fixture
async def plain(upstream: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[MirrorProcess]:
    """A mirror of two registries, which are one."""
    upstream.add(APP, "org/app", "1")
    upstreams = {
        "docker.io": upstream_at(upstream.url),
        "old.example": upstream_at(upstream.url),
    }
    server = {"workers": 2}
    async with running_mirror(tmp_path / "mirror", upstreams, server=server) as running:
        yield running


def rewrite(mirror: MirrorProcess, edit: Callable[[dict[str, Any]], object]) -> None:
    file = mirror.store_root.parent / "mirror.toml"
    document = tomllib.loads(file.read_text())
    edit(document)
    file.write_text(tomli_w.dumps(document))
    os.kill(mirror.process.pid, signal.SIGHUP)


def use_another_upstream(document: dict[str, Any]) -> None:
    document["upstream"]["new.example"] = document["upstream"].pop("old.example")


async def test_upstreams_come_and_go_and_no_pull_is_dropped(
    upstream: ScriptedRegistry, plain: MirrorProcess
) -> None:
    layer = APP.layers[0]
    assert (await plain.client.get("/v2/new.example/org/app/manifests/1")).status == 404
    gate = upstream.hold(layer, after=SIZE // 2)
    async with plain.client.open(f"/v2/old.example/org/app/blobs/{layer}") as response:
        await response.content.readexactly(1000)
        rewrite(plain, use_another_upstream)
        await plain.until_metric("mirror_reloads_total", 1, outcome="done")
        for _ in range(4):  # whichever worker is asked
            async with client(plain.url) as one:
                assert (await one.get("/v2/new.example/org/app/manifests/1")).status == 200
                gone = await one.get("/v2/old.example/org/app/manifests/1")
                assert (gone.status, b"NAME_UNKNOWN" in gone.body) == (404, True)
        gate.open()
        rest = await response.content.read()
        assert len(rest) == SIZE - 1000
    assert await plain.metric("mirror_upstream_up", upstream="old.example") == 0
    assert await plain.metric("mirror_upstream_up", upstream="new.example") == 1


async def test_what_was_for_all_is_each_clients_own_from_the_moment_it_is_said(
    upstream: ScriptedRegistry, plain: MirrorProcess
) -> None:
    paths = [
        f"/v2/docker.io/org/app/manifests/{APP.digest}",
        f"/v2/docker.io/org/app/blobs/{APP.config}",
    ]
    for path in paths * 4:
        async with client(plain.url) as one:
            assert (await one.get(path)).status == 200
    upstream.fault(repository="org/app", status=401)
    rewrite(plain, lambda it: it["upstream"]["docker.io"].update(access="client"))
    await plain.until_metric("mirror_reloads_total", 1, outcome="done")
    for path in paths * 4:
        async with client(plain.url) as one:
            assert (await one.get(path)).status in {401, 403}


async def test_limits_and_the_log_level_change_and_what_does_not_is_told(
    plain: MirrorProcess,
) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["store"]["max_size"] = "7 GiB"
        document["store"]["root"] = "/elsewhere"
        document["log"] = {"level": "debug"}
        document["tags"] = {"fresh_for": "1h"}
        document["fill"] = {"max_active": 7}

    rewrite(plain, edit)
    await plain.until_metric("mirror_store_limit_bytes", 7 * 2**30)
    await plain.until_metric("mirror_reloads_total", 1, outcome="done")
    await until(partial(_log_has, plain, "settings=store.root,tags.fresh_for", 1))


async def test_pushes_are_taken_or_not_as_it_is_said_last(
    upstream: ScriptedRegistry, plain: MirrorProcess
) -> None:
    upstream.push = Pushes(style="3")
    content = random_bytes(2**20, seed=7)

    def say(push: str, **bounds: str) -> None:
        def edit(document: dict[str, Any]) -> None:
            document["upstream"]["docker.io"]["push"] = push
            document["push"] = bounds

        rewrite(plain, edit)

    async def answers() -> list[int]:
        """Of whichever worker is asked."""
        found = []
        for _ in range(4):
            async with client(plain.url) as one:
                pusher = Pusher(one, "docker.io/org/app")
                answer = await pusher.post(f"?digest={digest_of(content)}", content)
                found.append(answer.status)
        return found

    assert await answers() == [405] * 4
    say("client")
    await plain.until_metric("mirror_reloads_total", 1, outcome="done")
    assert await answers() == [201] * 4
    say("client", max_blob_size="1 KiB")
    await plain.until_metric("mirror_reloads_total", 2, outcome="done")
    assert await answers() == [413] * 4
    say("off", max_blob_size="1 KiB")
    await plain.until_metric("mirror_reloads_total", 3, outcome="done")
    assert await answers() == [405] * 4


async def test_a_push_that_is_under_way_goes_on_while_its_upstream_changes(
    upstream: ScriptedRegistry, plain: MirrorProcess
) -> None:
    upstream.push = Pushes(style="3")
    content = random_bytes(6 * 2**20, seed=8)
    gate = upstream.push.hold(after=2**20)
    rewrite(plain, lambda it: it["upstream"]["docker.io"].update(push="client"))
    await plain.until_metric("mirror_reloads_total", 1, outcome="done")

    def edit(document: dict[str, Any]) -> None:
        [endpoint] = document["upstream"]["docker.io"]["endpoints"]
        endpoint["max_connections"] = 3  # another endpoint, as far as the mirror knows

    async with asyncio.TaskGroup() as group:
        pushing = group.create_task(Pusher(plain.client, "docker.io/org/app").blob(content))
        await gate.reached()
        rewrite(plain, edit)
        await plain.until_metric("mirror_reloads_total", 2, outcome="done")
        gate.open()
    assert upstream.repositories["org/app"].blobs[pushing.result()] == content


@pytest.mark.parametrize(
    "nonsense",
    ["max_sise = 1", "max_size = 0", '[[pin]]\nimage = "nowhere.example/a"'],
)
async def test_settings_that_make_no_sense_change_nothing_and_are_told(
    plain: MirrorProcess, nonsense: str
) -> None:
    file = plain.store_root.parent / "mirror.toml"
    await asyncio.to_thread(file.write_text, f"[store]\n{nonsense}\n")
    os.kill(plain.process.pid, signal.SIGHUP)
    await plain.until_metric("mirror_reloads_total", 1, outcome="failed")
    await until(partial(_log_has, plain, "what was read before stays in use", 1))
    assert (await plain.client.get("/v2/old.example/org/app/manifests/1")).status == 200


async def test_what_operators_have_asked_of_an_upstream_ends_where_it_is_configured_no_more(
    upstream: ScriptedRegistry, plain: MirrorProcess
) -> None:
    gone = {"image": "old.example/org/app:1"}
    async with aiohttp.ClientSession(f"{plain.admin_url}/api/v1/") as admin:

        async def has_trouble(trouble: str | None) -> bool:
            found = await (await admin.get("pins")).json()
            [pin] = found["pins"]
            return bool(pin["trouble"] == trouble and (trouble or pin["state"] == "complete"))

        assert (await admin.post("pins", json={**gone, "refresh": 0.05})).status == 200
        await until(partial(has_trouble, None))
        rewrite(plain, use_another_upstream)
        await plain.until_metric("mirror_reloads_total", 1, outcome="done")
        why = """there is no [upstream."old.example"]: images are named by their upstream's name"""
        await until(partial(has_trouble, why))
        upstream.forget()
        assert (await admin.post("image/compare", json=gone)).status == 404
    assert upstream.asked() == []


async def test_what_is_still_to_be_warmed_is_asked_only_where_it_may_be(
    upstream: ScriptedRegistry, plain: MirrorProcess
) -> None:
    """Two are under way; the upstream of the others is configured no more when their turn comes."""
    gate = upstream.hold(APP.layers[0], after=SIZE // 2)
    images = [f"old.example/org/app:{tag}" for tag in ("1", "2", "3", "4")]
    for tag in ("2", "3", "4"):
        upstream.add(APP, "org/app", tag)
    async with aiohttp.ClientSession(f"{plain.admin_url}/api/v1/") as admin:
        assert (await admin.post("warm", json={"images": images})).status == 200
        await gate.reached()
        rewrite(plain, use_another_upstream)
        await plain.until_metric("mirror_reloads_total", 1, outcome="done")
        gate.open()
        told: list[Any] = []

        async def is_over() -> bool:
            [job] = (await (await admin.get("warm")).json())["jobs"]
            told[:] = job["images"]
            return job["ended_at"] is not None

        await until(is_over)
    assert [it["state"] for it in told[2:]] == ["failed", "failed"]
    assert all("there is no [upstream" in it["trouble"] for it in told[2:])
    assert not {it.path.rpartition("/")[2] for it in upstream.requests} & {"3", "4"}


async def test_where_one_upstream_cannot_be_taken_up_none_is(plain: MirrorProcess) -> None:
    ca = plain.store_root.parent / "ca.pem"
    await asyncio.to_thread(ca.write_text, "no certificate")

    def break_two(document: dict[str, Any]) -> None:
        document["upstream"]["docker.io"]["endpoints"] = [{"url": "http://127.0.0.1:1"}]
        document["upstream"]["z.example"] = {
            "endpoints": [{"url": "https://z.example", "ca_file": str(ca)}]
        }

    rewrite(plain, break_two)
    await plain.until_metric("mirror_reloads_total", 1, outcome="failed")
    assert (await plain.client.get("/v2/org/app/manifests/1")).status == 200
