"""Workers as processes, by the real command line: they are replaced, and go with the mirror."""

import asyncio
import itertools
import json
import os
import re
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import tomli_w

from mirror.telemetry.asked import LONGEST_AGENT
from tests.support.client import Client, client, get
from tests.support.evil import Evil, says
from tests.support.images import Image, image, random_layer
from tests.support.mirror import MirrorProcess, document, running_mirror, upstream_at
from tests.support.process import Process, answers, children_of, free_port, run, until
from tests.support.tls import Authority
from tests.support.upstream import ScriptedRegistry

SIZE = 3 * 2**20
WORKERS = 2

pytestmark = pytest.mark.chaos


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


@pytest.fixture
def workers() -> int:
    return WORKERS


@pytest.fixture
async def mirror(
    upstream: ScriptedRegistry, tmp_path: Path, workers: int
) -> AsyncIterator[MirrorProcess]:
    async with running_mirror(
        tmp_path, {"docker.io": upstream_at(upstream.url)}, server={"workers": workers}
    ) as mirror:
        await is_told(mirror, " INFO serving ")  # all of them are at work
        yield mirror


@asynccontextmanager
async def clients_of(mirror: MirrorProcess) -> AsyncIterator[list[Client]]:
    """As many as there are workers, each connected to another one."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(mirror.url)) for _ in range(WORKERS)]
        for one in clients:
            assert (await one.get("/v2/")).status == 200
        yield clients


def workers_of(mirror: MirrorProcess) -> set[int]:
    """The ids of its processes."""
    return children_of(mirror.process)


def lives(pid: int) -> bool:
    """Whether it is there; whoever inherited a dead one may not have reaped it yet."""
    with suppress(FileNotFoundError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        return state.split()[0] != "Z"
    return False


@contextmanager
def hanging(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it has been killed
            os.kill(pid, signal.SIGCONT)


@contextmanager
def room_for(count: int, pid: int) -> Iterator[None]:
    """A process that can open no more than so many files and connections."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    free = (number for number in itertools.count() if number not in used)
    limit = next(itertools.islice(free, count, None))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


async def is_served(one: Client) -> bool:
    """False: it was dealt to a worker that hangs."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            return (await one.get("/v2/")).status == 200
    return False


async def are_gone(pids: set[int]) -> None:
    async def gone() -> bool:
        return not any(map(lives, pids))

    await until(gone)


async def is_ready(mirror: MirrorProcess, status: int) -> bool:
    return (await get(f"{mirror.admin_url}/readyz")).status == status


async def is_told(mirror: MirrorProcess, text: str) -> None:
    async def told() -> bool:
        return text in mirror.process.log()

    await until(told)


# A worker dies


async def test_a_worker_that_is_killed_is_replaced_and_the_others_serve_meanwhile(
    mirror: MirrorProcess, app: Image
) -> None:
    async def pull() -> None:
        assert (await get(f"{mirror.url}/v2/org/app/manifests/1")).body == app.manifest

    async def has_served(count: int) -> bool:
        await pull()
        return len(set(re.findall(r" id=(\w+)-", mirror.process.log()))) == count

    await until(partial(has_served, WORKERS))
    before = workers_of(mirror)
    assert len(before) == WORKERS
    os.kill(min(before), signal.SIGKILL)
    await is_told(mirror, "a worker has ended, another takes its place")
    assert await is_ready(mirror, 200)
    for _ in range(2 * WORKERS):
        await pull()
    await until(partial(has_served, WORKERS + 1))
    assert len(workers_of(mirror)) == len(workers_of(mirror) | before) - 1 == WORKERS
    assert "Traceback" not in mirror.process.log()


async def test_what_others_read_goes_on_and_what_the_dead_worker_had_open_is_let_go(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    [layer] = app.layers
    target, gate = f"/v2/org/app/blobs/{layer}", upstream.hold(layer, after=SIZE // 2)
    async with (
        clients_of(mirror) as (one, other),
        one.open(target) as here,
        other.open(target) as there,
    ):
        await gate.reached()
        await mirror.until_metric("mirror_fill_readers", 2)
        os.kill(min(workers_of(mirror)), signal.SIGKILL)
        await mirror.until_metric("mirror_fill_readers", 1)
        gate.open()
        ends = await asyncio.gather(here.read(), there.read(), return_exceptions=True)
    assert [end for end in ends if isinstance(end, bytes)] == [app.blobs[layer]]
    assert [type(end) for end in ends if not isinstance(end, bytes)] == [aiohttp.ClientPayloadError]
    await mirror.until_metric("mirror_fill_readers", 0)
    assert upstream.questions() == [("blob", "GET", layer)]
    assert (await get(mirror.url + target)).body == app.blobs[layer]
    assert upstream.bytes_sent(layer) == SIZE
    await mirror.process.kill()


async def test_a_download_goes_on_whose_only_reader_has_died_and_the_next_has_it(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    [layer] = app.layers
    target, gate = f"/v2/org/app/blobs/{layer}", upstream.hold(layer, after=SIZE // 2)
    async with mirror.client.open(target) as response:
        await gate.reached()
        before = workers_of(mirror)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()

    async def are_replaced() -> bool:  # who comes to one that is about to die is reset
        return len(workers_of(mirror) - before) == len(before)

    await until(are_replaced)
    gate.open()
    assert (await get(mirror.url + target)).body == app.blobs[layer]
    assert upstream.bytes_sent(layer) == SIZE
    await mirror.process.kill()


@pytest.mark.parametrize("workers", [1])
async def test_while_the_only_worker_is_replaced_it_is_not_ready_and_clients_wait(
    mirror: MirrorProcess, app: Image
) -> None:
    [pid] = workers_of(mirror)
    assert (await mirror.client.manifest("org/app", "1")).body == app.manifest
    os.kill(pid, signal.SIGKILL)

    async def is_not_ready() -> bool:
        return await is_ready(mirror, 503)

    await until(is_not_ready)
    assert (await get(f"{mirror.admin_url}/healthz")).status == 200
    assert (await get(f"{mirror.url}/v2/org/app/manifests/1")).body == app.manifest
    assert await is_ready(mirror, 200)
    assert len(workers_of(mirror) - {pid}) == 1


# A worker hangs


async def test_a_worker_that_hangs_gets_no_more_clients_and_what_others_serve_is_counted(
    mirror: MirrorProcess,
) -> None:
    """What it has served itself and not told yet, nobody can know."""

    async def is_passed_over() -> bool:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client(mirror.url)) for _ in range(WORKERS)]
            return all([await is_served(one) for one in clients])

    async with clients_of(mirror) as clients:
        with hanging(min(workers_of(mirror))):
            [served] = [one for one in clients if await is_served(one)]
            before = await mirror.metric("mirror_requests_total")
            for count in range(1, 4):
                assert await is_served(served)
                assert await mirror.metric("mirror_requests_total") == before + count
            await until(is_passed_over, within=15)
            for _ in range(3):
                assert await is_passed_over()
    await mirror.process.kill()


# No descriptor is free


async def test_a_worker_without_descriptors_refuses_clients_and_serves_those_that_it_has(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    [layer] = app.layers
    gate = upstream.hold(layer, after=SIZE // 2)
    before = workers_of(mirror)
    async with (
        mirror.client.open(f"/v2/org/app/blobs/{layer}") as response,
        AsyncExitStack() as stack,
    ):
        received = await response.content.readexactly(SIZE // 2)
        with ExitStack() as limits:
            for pid in before:
                limits.enter_context(room_for(3, pid))
            served = 0
            for _ in range(5 * WORKERS):  # each stays connected
                one = await stack.enter_async_context(client(mirror.url))
                with suppress(aiohttp.ClientError):  # it is refused
                    served += (await one.get("/v2/")).status == 200
            assert WORKERS <= served <= 3 * WORKERS
            gate.open()
            assert received + await response.read() == app.blobs[layer]
        assert (await get(f"{mirror.url}/v2/")).status == 200
    assert workers_of(mirror) == before
    assert "Traceback" not in mirror.process.log()


async def test_a_mirror_without_descriptors_refuses_a_client_and_serves_the_next(
    mirror: MirrorProcess,
) -> None:
    before = workers_of(mirror)
    with room_for(1, mirror.process.pid):  # to accept a client, not to pass it on
        with pytest.raises(aiohttp.ClientError):
            await get(f"{mirror.url}/v2/")
        await is_told(mirror, "no more clients for now: ")
    assert (await get(f"{mirror.url}/v2/")).status == 200
    assert workers_of(mirror) == before


# The mirror starts


def is_worker(pid: int) -> bool:
    """Not so at first: it is the mirror's own process, once more."""
    return b"mirror: worker" in Path(f"/proc/{pid}/cmdline").read_bytes()


@asynccontextmanager
async def starting(directory: Path) -> AsyncIterator[Process]:
    """A mirror whose workers' processes are there, and not at work yet."""
    settings = document(
        {"docker.io": upstream_at("http://127.0.0.1:9")},
        store_root=directory / "store",
        ports=(free_port(), free_port()),
        server={"workers": WORKERS},
    )
    file = directory / "mirror.toml"
    file.write_text(tomli_w.dumps(settings), encoding="utf-8")

    async def are_there() -> bool:
        has_begun = (directory / "store" / "lock").exists()
        return has_begun and [*map(is_worker, children_of(process))] == [True] * WORKERS

    command = (sys.executable, "-m", "mirror", "serve", "--config", file)
    process = Process(command, log=directory / "mirror.log", ready=are_there)
    async with process:
        yield process


async def test_a_worker_that_dies_while_the_mirror_starts_ends_it_and_is_told(
    tmp_path: Path,
) -> None:
    async with starting(tmp_path) as process:
        before = children_of(process)
        os.kill(max(before), signal.SIGKILL)
        assert await process.wait() == 1
        await are_gone(before)
    assert "a worker cannot be started" in process.log()
    assert "Traceback" not in process.log()


async def test_a_worker_that_hangs_while_the_mirror_starts_does_not_keep_it_from_stopping(
    tmp_path: Path,
) -> None:
    async with starting(tmp_path) as process:
        before = children_of(process)
        with hanging(max(before)):
            os.kill(process.pid, signal.SIGTERM)
            assert await process.wait() == 0
            await are_gone(before)
    assert process.log().endswith(" INFO stopped before it served\n")


def memory_of(pid: int) -> dict[str, int]:
    """KiB that it has in memory, by the kernel's words."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]
    return {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}


def open_in(pid: int) -> list[Path]:
    return [it.readlink() for it in Path(f"/proc/{pid}/fd").iterdir()]


async def test_workers_share_what_importing_makes_and_have_nothing_of_the_mirrors_open(
    mirror: MirrorProcess, tmp_path: Path
) -> None:
    async with clients_of(mirror):
        for pid in workers_of(mirror):
            memory = memory_of(pid)
            assert memory["Private_Dirty"] < memory["Anonymous"] / 2
            assert not [it for it in open_in(pid) if it.is_relative_to(tmp_path / "store")]
            assert os.getsid(pid) == pid


# The mirror ends


async def test_it_stops_while_a_worker_is_being_replaced(mirror: MirrorProcess) -> None:
    before = workers_of(mirror)
    os.kill(min(before), signal.SIGKILL)

    async def the_next_is_starting() -> bool:
        return bool(workers_of(mirror) - before)

    await until(the_next_is_starting)
    before |= workers_of(mirror)
    terminate(mirror)
    assert await mirror.process.wait() == 0
    await are_gone(before)
    assert "Traceback" not in mirror.process.log()


async def test_workers_of_a_mirror_that_is_killed_end_and_the_next_can_listen_at_once(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    [layer] = app.layers
    target, gate = f"/v2/org/app/blobs/{layer}", upstream.hold(layer, after=SIZE // 2)
    before = workers_of(mirror)
    async with mirror.client.open(target) as response:
        await gate.reached()
        os.kill(mirror.process.pid, signal.SIGKILL)  # it alone, not its process group
        await mirror.process.wait()
        await mirror.process.start()
        await are_gone(before)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    gate.cut()
    assert (await get(mirror.url + target)).body == app.blobs[layer]
    assert len(workers_of(mirror)) == WORKERS


def terminate(mirror: MirrorProcess) -> None:
    os.kill(mirror.process.pid, signal.SIGTERM)


def terminate_all(mirror: MirrorProcess) -> None:
    """As systemd does."""
    os.killpg(mirror.process.pid, signal.SIGTERM)


def interrupt_all(mirror: MirrorProcess) -> None:
    """As Ctrl-C in a terminal does."""
    os.killpg(mirror.process.pid, signal.SIGINT)


@pytest.mark.parametrize("end", [terminate, terminate_all, interrupt_all])
async def test_when_it_is_told_to_stop_responses_of_all_workers_finish(
    upstream: ScriptedRegistry,
    mirror: MirrorProcess,
    app: Image,
    end: Callable[[MirrorProcess], None],
) -> None:
    [layer] = app.layers
    target, gate = f"/v2/org/app/blobs/{layer}", upstream.hold(layer, after=SIZE // 2)
    before = workers_of(mirror)
    async with (
        clients_of(mirror) as (one, other),
        one.open(target) as here,
        other.open(target) as there,
    ):
        await gate.reached()
        end(mirror)
        await is_told(mirror, "stopping: responses may finish")
        gate.open()
        assert await here.read() == await there.read() == app.blobs[layer]
    assert await mirror.process.wait() == 0
    await are_gone(before)
    assert mirror.process.log().splitlines()[-1].endswith(" INFO stopped")
    assert "Traceback" not in mirror.process.log()
    assert mirror.process.log().count(f"GET {target}") == 2  # what workers told last, too


async def test_a_second_signal_ends_it_at_once_and_its_workers_with_it(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    [layer] = app.layers
    gate = upstream.hold(layer, after=SIZE // 2)
    before = workers_of(mirror)
    async with mirror.client.open(f"/v2/org/app/blobs/{layer}"):
        await gate.reached()
        terminate(mirror)
        await is_told(mirror, "stopping: responses may finish")
        terminate(mirror)
        assert await mirror.process.wait() == -signal.SIGTERM
        await are_gone(before)
    gate.cut()


async def test_a_worker_that_hangs_keeps_the_mirror_neither_from_serving_nor_from_stopping(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    server = {"workers": WORKERS, "drain_timeout": "0s"}
    async with running_mirror(
        tmp_path, {"docker.io": upstream_at(upstream.url)}, server=server
    ) as mirror:
        await is_told(mirror, " INFO serving ")
        before = workers_of(mirror)
        os.kill(min(before), signal.SIGSTOP)

        async def answered() -> bool:
            try:
                async with asyncio.timeout(0.5):
                    answer = await get(f"{mirror.url}/v2/org/app/manifests/1")
            except TimeoutError:  # it was dealt to the one that hangs
                return False
            return answer.body == app.manifest

        await until(answered)
        terminate(mirror)
        assert await mirror.process.wait() == 0
        await are_gone(before)


async def test_a_second_mirror_on_the_same_port_is_refused_and_the_first_serves_on(
    upstream: ScriptedRegistry, mirror: MirrorProcess, tmp_path: Path
) -> None:
    port = int(mirror.host.rpartition(":")[2])
    settings = document(
        {"docker.io": upstream_at(upstream.url)},
        store_root=tmp_path / "second",
        ports=(port, free_port()),
    )
    file = tmp_path / "second.toml"
    file.write_text(tomli_w.dumps(settings), encoding="utf-8")
    second = await run(
        sys.executable, "-m", "mirror", "serve", "--config", file, check=False, within=20
    )
    assert second.returncode == 1
    assert f"cannot listen on {mirror.host}: Address already in use" in second.stderr
    assert "Traceback" not in second.stderr
    for _ in range(2 * WORKERS):
        assert (await get(f"{mirror.url}/v2/")).status == 200


# What they tell


async def test_counts_are_there_with_the_answer(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    [layer] = app.layers
    async with clients_of(mirror) as clients:
        for count, one in enumerate(clients * 10, start=1):
            await one.blob("org/app", layer)
            assert await mirror.metric("mirror_requests_total", kind="blob") == count
            assert await mirror.metric("mirror_served_bytes_total") == count * SIZE


LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 (?:INFO|WARNING|ERROR) [^=]+"
    r'(?: \w+=(?:[^ "=]+|"(?:[^"\\]|\\.)*"))*'
)


def text_of(line: str) -> Mapping[str, str]:
    assert LINE.fullmatch(line), line
    return dict(re.findall(r" (\w+)=([^ \"]+)", line))


def json_of(line: str) -> Mapping[str, str]:
    found = json.loads(line)
    assert isinstance(found, dict), line
    return found


@pytest.mark.parametrize(("style", "parse"), [("text", text_of), ("json", json_of)])
async def test_each_line_of_each_worker_is_whole_however_much_they_tell_at_once(
    upstream: ScriptedRegistry,
    tmp_path: Path,
    style: str,
    parse: Callable[[str], Mapping[str, str]],
) -> None:
    count = 300
    agents = [letter * LONGEST_AGENT for letter in "abcd"]
    upstreams = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(
        tmp_path, upstreams, server={"workers": WORKERS}, log={"format": style}
    ) as mirror:

        async def ask(agent: str) -> None:
            async with client(mirror.url) as one:
                for _ in range(count):
                    await one.get("/v2/", headers={"User-Agent": agent})

        await asyncio.gather(*map(ask, agents))
        await mirror.process.stop()
        lines = [parse(line) for line in mirror.process.log().splitlines()]
    told = [line for line in lines if line.get("agent")]
    assert sorted(line["agent"] for line in told) == sorted(agents * count)
    assert len({line["id"] for line in told}) == len(told)
    assert len({line["id"].partition("-")[0] for line in told}) == WORKERS


async def test_workers_are_of_the_same_program_whatever_lies_in_the_working_directory(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    decoy = tmp_path / "checkout"
    (decoy / "mirror").mkdir(parents=True)
    for file in (decoy / "mirror" / "__init__.py", decoy / "uvloop.py"):
        file.write_text("raise SystemExit('another version')", encoding="utf-8")
    ports = (free_port(), free_port())
    upstreams = {"docker.io": upstream_at(upstream.url)}
    config = tmp_path / "mirror.toml"
    settings = document(upstreams, store_root=tmp_path / "store", ports=ports)
    config.write_text(tomli_w.dumps(settings), encoding="utf-8")
    start = f"cd {decoy} && exec {sys.executable} -P -m mirror serve --config {config}"
    ready = partial(answers, f"http://127.0.0.1:{ports[1]}/readyz")
    async with Process(("sh", "-c", start), log=tmp_path / "log", ready=ready):
        answer = await get(f"http://127.0.0.1:{ports[0]}/v2/org/app/manifests/1")
    assert answer.body == app.manifest


@pytest.mark.parametrize("status", [b"999 Odd", b"600 Odd"])
async def test_an_odd_status_of_a_token_server_costs_no_other_client_its_connection(
    tmp_path: Path, status: bytes
) -> None:
    async with Evil() as evil:
        realm = evil.url.encode() + b"/token"
        evil.on("/v2/", says(
            b"HTTP/1.1 401 Who", b'WWW-Authenticate: Bearer realm="%b"' % realm,
            b"Content-Length: 0",
        ))  # fmt: skip
        evil.on("/token", says(b"HTTP/1.1 " + status, b"Content-Length: 0"))
        private = upstream_at(evil.url) | {"access": "client", "relay_tokens": "http"}
        async with running_mirror(
            tmp_path, {"ghcr.io": private}, server={"workers": WORKERS}
        ) as mirror, clients_of(mirror) as clients:  # fmt: skip
            workers = children_of(mirror.process)
            for one in clients:
                told = (await one.get("/v2/?ns=ghcr.io")).headers["WWW-Authenticate"]
                target = re.search(r"/v2/_token/[^\"]*", told)
                assert target is not None
                assert (await one.get(f"{target[0]}?scope=x")).status == 502
            assert children_of(mirror.process) == workers
            assert await mirror.metric("mirror_internal_errors_total") == 0


async def test_who_comes_by_tls_is_noted_until_they_leave(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "pki")
    shown = authority.issue("mirror")
    tls = {
        "tls_certificate_file": str(shown.certificate_file),
        "tls_private_key_file": str(shown.private_key_file),
    }
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    upstreams = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path, upstreams, server=tls) as mirror:
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*mirror.host.split(":"), ssl=trusting)
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert await mirror.metric("mirror_connections") == 1
            writer.close()
            await mirror.until_metric("mirror_connections", 0)
        assert await mirror.metric("mirror_internal_errors_total", task="request") == 0
