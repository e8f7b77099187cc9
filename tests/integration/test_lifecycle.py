"""Start and stop, by the real command line: what goes on, what is kept, what is told."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import uvloop

from mirror.app import run as run_mirror
from mirror.config import parse
from tests.support.client import get
from tests.support.images import Image, image, random_layer
from tests.support.mirror import MirrorProcess, document, running_mirror, upstream_at
from tests.support.process import CHILD_ENVIRONMENT, answers, free_port, run, until
from tests.support.tls import Authority
from tests.support.upstream import ScriptedRegistry

SIZE = 3 * 2**20

Result = subprocess.CompletedProcess[str]


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[MirrorProcess]:
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        yield mirror


@pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_it_can_run_again_in_the_same_loop(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    settings = document(
        {"docker.io": upstream_at("http://127.0.0.1:9")}, store_root=tmp_path / "store"
    )
    complaints: list[object] = []

    async def run_twice() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        for _ in range(2):
            async with asyncio.timeout(20), run_mirror(parse(settings)) as running:
                answer = await get("http://{}:{}/v2/".format(*running.listen[0]))
                assert answer.status == 200

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run_twice())
    assert complaints == []


async def begin_with(descriptors: int, config: Path) -> tuple[int, str]:
    """Start a mirror that is ended once it serves; its status, and what it says."""
    limit = f"ulimit -n {descriptors}; exec {sys.executable} -m mirror serve --config {config}"
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", limit, env=CHILD_ENVIRONMENT, stderr=asyncio.subprocess.PIPE
    )
    said = ""
    assert process.stderr is not None
    async for line in process.stderr:
        said += line.decode()
        if b" serving " in line:
            process.terminate()
    return await process.wait(), said


async def test_it_says_how_many_files_it_has_to_be_able_to_open(tmp_path: Path) -> None:
    settings = document(
        {"docker.io": upstream_at("http://127.0.0.1:9")},
        store_root=tmp_path / "store", server={"workers": 2},
    )  # fmt: skip
    config = tmp_path / "mirror.toml"
    config.write_text(tomli_w.dumps(settings))
    for few in (16, 40):
        status, said = await begin_with(few, config)
        assert status == 1
        assert said == (
            f"mirror: the system allows {few} open files; the mirror needs 68 to start, and 388 for"
            " all that fill.max_active allows: raise it (LimitNOFILE, ulimit -n)\n"
        )
    status, said = await begin_with(68, config)
    assert status == 0
    assert "few files may be open at once" in said
    assert "allowed=68 needed=388" in said
    status, said = await begin_with(388, config)
    assert status == 0
    assert "open at once" not in said


def signal_it(mirror: MirrorProcess, number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(mirror.process.pid, number)


async def accepts_no_more(mirror: MirrorProcess) -> None:
    async def refuses() -> bool:
        try:
            _, writer = await asyncio.open_connection(*mirror.host.split(":"))
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it was waiting to be accepted
            return False
        writer.close()
        return False

    await until(refuses)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_responses_finish_and_accepts_no_more(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image, number: signal.Signals
) -> None:
    layer = app.layers[0]
    gate = upstream.hold(layer, after=SIZE // 2)
    async with mirror.client.open(f"/v2/org/app/blobs/{layer}") as response:
        start = await response.content.readexactly(1000)
        signal_it(mirror, number)
        await accepts_no_more(mirror)
        gate.open()
        assert start + await response.read() == app.blobs[layer]
    assert await mirror.process.wait() == 0
    assert "stopped" in mirror.process.log()
    assert "Traceback" not in mirror.process.log()


async def test_what_had_arrived_when_it_was_stopped_is_not_fetched_again(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    """The drain is over before upstream sends the rest: the partial stays for the next start."""
    layer = app.layers[0]
    gate = upstream.hold(layer, after=SIZE // 2)
    server = {"drain_timeout": "100ms"}
    upstreams = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path, upstreams, server=server) as mirror:
        async with mirror.client.open(f"/v2/org/app/blobs/{layer}") as response:
            await response.content.readexactly(SIZE // 2 - 1)
            signal_it(mirror)
            assert await mirror.process.wait() == 0
        gate.cut()
        upstream.forget()
        await mirror.process.start()
        answer = await mirror.client.blob("org/app", layer)
        assert answer.body == app.blobs[layer]
        assert [asked.offset for asked in upstream.asked("blob")] == [SIZE // 2]
        assert upstream.bytes_sent(layer) == SIZE - SIZE // 2


async def test_what_was_served_once_is_there_after_a_crash(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    await mirror.client.manifest("org/app", "1")
    for digest in app.blobs:
        await mirror.client.blob("org/app", digest)
    await mirror.until_metric("mirror_fills_active", 0)
    await mirror.process.kill()
    await upstream.stop()
    await mirror.process.start()
    assert (await mirror.client.manifest("org/app", "1")).body == app.manifest
    for digest, content in app.blobs.items():
        assert (await mirror.client.blob("org/app", digest)).body == content


@pytest.mark.parametrize("name", ["records", "index", "history"])
async def test_a_corrupted_database_is_set_aside_and_the_blobs_are_served_at_once(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image, name: str
) -> None:
    layer = app.layers[0]
    await mirror.client.manifest("org/app", "1")
    await mirror.client.blob("org/app", layer)
    await mirror.process.stop()
    database = mirror.store_root / f"{name}.sqlite3"
    database.write_bytes(b"\xff" * 8192)
    upstream.forget()
    await mirror.process.start()
    assert (await mirror.client.manifest("org/app", "1")).body == app.manifest
    assert (await mirror.client.blob("org/app", layer)).body == app.blobs[layer]
    assert upstream.bytes_sent(layer) == 0  # adopted
    assert f"{name}.sqlite3 is set aside" in mirror.process.log()
    assert database.with_name(f"{name}.sqlite3.damaged").read_bytes() == b"\xff" * 8192


@pytest.mark.parametrize("name", ["records", "index"])
async def test_a_database_of_a_newer_mirror_is_left_alone(
    tmp_path: Path, upstream: ScriptedRegistry, mirror: MirrorProcess, name: str
) -> None:
    await mirror.process.stop()
    with closing(sqlite3.connect(mirror.store_root / f"{name}.sqlite3")) as database:
        database.execute("PRAGMA user_version = 99")
    started = await serve(tmp_path / "mirror.toml")
    assert started.returncode == 1
    assert "written by a newer mirror" in started.stderr


# What keeps it from starting


async def serve(config: str | Path) -> Result:
    return await run(
        sys.executable, "-m", "mirror", "serve", "--config", config, check=False, within=20
    )


def store_is_a_file(settings: dict[str, Any], directory: Path) -> str:
    (directory / "store").write_text("not a directory", encoding="utf-8")
    return str(directory / "store")


def store_is_in_a_file(settings: dict[str, Any], directory: Path) -> str:
    (directory / "file").write_text("", encoding="utf-8")
    settings["store"]["root"] = str(directory / "file" / "store")
    return str(directory / "file")


def catalog_is_a_directory(settings: dict[str, Any], directory: Path) -> str:
    (directory / "store" / "catalog.sqlite3").mkdir(parents=True)
    return str(directory / "store" / "catalog.sqlite3")


@pytest.mark.parametrize("broken", [store_is_a_file, store_is_in_a_file, catalog_is_a_directory])
async def test_a_store_that_cannot_be_used_is_exit_1_with_its_path(
    tmp_path: Path, broken: Callable[[dict[str, Any], Path], str]
) -> None:
    settings = configuration(tmp_path)
    path = broken(settings, tmp_path)
    started = await serve(write(settings, tmp_path))
    assert started.returncode == 1
    assert started.stderr.startswith("mirror: ")
    assert path in started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.parametrize("which", ["listen", "admin_listen"])
async def test_a_port_that_is_in_use_is_exit_1_and_says_which(tmp_path: Path, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = configuration(tmp_path)
        settings["server"][which] = f"127.0.0.1:{port}"
        started = await serve(write(settings, tmp_path))
    assert started.returncode == 1
    assert str(port) in started.stderr
    assert "already in use" in started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.parametrize("verb", ["serve", "check"])
async def test_a_broken_configuration_is_exit_2_with_everything_that_is_wrong(
    tmp_path: Path, verb: str
) -> None:
    settings = configuration(tmp_path)
    settings["server"]["lisen"] = "127.0.0.1:1"
    settings["store"]["max_size"] = 5
    settings["upstream"]["docker.io"]["endpoints"][0]["username"] = "anna"
    file = write(settings, tmp_path)
    ended = await run(sys.executable, "-m", "mirror", verb, "--config", file, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{file}: ") for line in lines)
    assert any("server.lisen: unknown key; did you mean listen?" in line for line in lines)


async def test_files_that_the_configuration_names_and_that_make_no_sense_are_exit_2(
    tmp_path: Path,
) -> None:
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("anna:secret\n", encoding="utf-8")
    server = Authority(tmp_path / "ca").issue("server")
    for setting in (
        {"htpasswd_file": str(nonsense)},
        {
            "tls_certificate_file": str(nonsense),
            "tls_private_key_file": str(server.private_key_file),
        },
    ):
        settings = configuration(tmp_path)
        settings["server"].update(setting)
        started = await serve(write(settings, tmp_path))
        assert started.returncode == 2
        assert started.stderr.startswith(f"{nonsense}: ")
        assert "Traceback" not in started.stderr
        assert "secret" not in started.stderr


@pytest.mark.parametrize("content", ["[server", "\x00", "server = 5"])
async def test_a_file_that_is_no_configuration_is_exit_2(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text(content, encoding="utf-8")
    started = await serve(file)
    assert started.returncode == 2
    assert started.stderr.startswith(f"{file}: ")
    missing = await serve(tmp_path / "missing.toml")
    assert (missing.returncode, missing.stdout) == (2, "")


async def test_check_prints_a_configuration_that_can_be_read_back(tmp_path: Path) -> None:
    file = write(configuration(tmp_path), tmp_path)
    checked = await run(sys.executable, "-m", "mirror", "check", "--config", file)
    again = tmp_path / "again.toml"
    again.write_text(checked.stdout, encoding="utf-8")
    rechecked = await run(sys.executable, "-m", "mirror", "check", "--config", again)
    assert rechecked.stdout == checked.stdout


async def test_check_says_which_proxy_leads_to_an_endpoint(tmp_path: Path) -> None:
    url = "https://registry.test"
    settings = {"upstream": {"hub": upstream_at(url), "own": upstream_at(url, proxy="socks5://a")}}
    file = write(settings, tmp_path)
    command = (sys.executable, "-m", "mirror", "check", "--config", file)
    environment = {**CHILD_ENVIRONMENT, "HTTPS_PROXY": "http://joe:s3cret@b:3128"}
    checked = await run(*command, environment=environment)
    assert (
        f"# {url} is reached through the proxy http://b:3128 (of the environment)\n"
        in checked.stdout
    )
    assert f"# {url} is reached through the proxy socks5://a:1080\n" in checked.stdout
    assert "s3cret" not in checked.stdout
    environment = {**CHILD_ENVIRONMENT, "HTTPS_PROXY": "ftp://joe:s3cret@b"}
    refused = await run(*command, environment=environment, check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("environment: HTTPS_PROXY: not a proxy's URL")
    assert "s3cret" not in refused.stderr


async def test_a_failed_start_leaves_nothing_that_keeps_the_next_from_starting(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = configuration(tmp_path)
        settings["server"]["listen"] = f"127.0.0.1:{taken.getsockname()[1]}"
        assert (await serve(write(settings, tmp_path))).returncode == 1
    upstreams = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path, upstreams) as mirror:
        assert (await mirror.client.manifest("org/app", "1")).status == 200


async def test_a_store_that_breaks_fails_no_pull(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    """As when the disk dies under it: what comes from upstream is handed on."""
    blobs = mirror.store_root / "blobs"
    blobs.rename(mirror.store_root / "aside")
    blobs.write_text("in the way", encoding="utf-8")
    manifest = await mirror.client.manifest("org/app", "1")
    assert (manifest.status, manifest.body) == (200, app.manifest)
    for digest in app.blobs:
        blob = await mirror.client.blob("org/app", digest)
        assert (blob.status, blob.body) == (200, app.blobs[digest])
    assert (await get(f"{mirror.admin_url}/readyz")).status == 503

    async def is_told() -> bool:
        return "not kept" in mirror.process.log()

    await until(is_told)


async def test_whoever_watches_a_disk_that_hangs_takes_no_thread_from_pulls(
    mirror: MirrorProcess, app: Image
) -> None:
    """As when a file server is away for a while: here, what the disk is asked by is a pipe."""
    probe = mirror.store_root / "blobs" / ".probe"
    os.mkfifo(probe)
    readiness = f"{mirror.admin_url}/readyz"
    try:
        for _ in range(2):  # more than there are threads for
            await asyncio.gather(*(answers(readiness) for _ in range(40)))
        await mirror.client.manifest("org/app", "1")
        for digest in app.blobs:
            assert (await mirror.client.blob("org/app", digest)).digest == digest
        await mirror.until_metric("mirror_fills_total", len(app.blobs), outcome="committed")
        assert (await get(readiness)).status == 503
        status = json.loads((await get(f"{mirror.admin_url}/status")).body)
        assert any("does not answer" in problem["why"] for problem in status["problems"])
    finally:
        os.close(os.open(probe, os.O_RDONLY | os.O_NONBLOCK))  # the disk is back
    await until(partial(answers, readiness))


def configuration(directory: Path) -> dict[str, Any]:
    return document(
        {"docker.io": upstream_at("http://127.0.0.1:9")},
        store_root=directory / "store",
        ports=(free_port(), free_port()),
    )


def write(settings: dict[str, Any], directory: Path) -> Path:
    file = directory / "mirror.toml"
    file.write_text(tomli_w.dumps(settings), encoding="utf-8")
    return file


@pytest.mark.parametrize("setting", ["listen", "admin_listen"])
@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
async def test_an_address_that_cannot_be_listened_on_is_told_with_its_setting(
    tmp_path: Path, setting: str, host: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"{host}:{taken.getsockname()[1]}"
        settings = document(
            {"docker.io": upstream_at("http://127.0.0.1:9")},
            store_root=tmp_path / "store",
            server={setting: address},
        )
        file = tmp_path / "mirror.toml"
        file.write_text(tomli_w.dumps(settings))
        command = (sys.executable, "-m", "mirror", "serve", "--config", file)
        result = await run(*command, check=False)
    assert result.returncode == 1
    assert f"mirror: server.{setting}: cannot listen on {address}: " in result.stderr
    assert "Traceback" not in result.stderr
    assert "Errno" not in result.stderr
    assert host != "127.0.0.1" or result.stderr.rstrip().endswith("Address already in use")


async def test_the_store_is_the_mirrors_alone_whatever_the_umask(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app = upstream.add(image(random_layer(300_000, seed=8)), "library/app", "1")
    before = os.umask(0)
    try:
        async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
            assert (await mirror.client.manifest("app", "1")).status == 200
            assert (await mirror.client.blob("app", app.layers[0])).status == 200
            open_to_others = await asyncio.to_thread(_open_to_others, mirror.store_root)
    finally:
        os.umask(before)
    assert open_to_others == []


def _open_to_others(root: Path) -> list[str]:
    """Name what others may touch; what goes while we look, a partial say, is nobody's."""
    found = []
    for path in [root, *root.rglob("*")]:
        with suppress(FileNotFoundError):
            if path.stat().st_mode & 0o077:
                found.append(str(path))
    return found
