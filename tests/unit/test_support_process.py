"""Programs that tests start: what they say, how they end, and that all of them end."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.support.process import Process, ProcessFailed, answers, free_port, run, until


def serving(directory: Path, port: int, *, first: str = "pass") -> Process:
    """A web server in Python; `first` runs ahead of it."""
    program = (
        f"import http.server as h; {first}; h.test(h.SimpleHTTPRequestHandler, "
        f"h.ThreadingHTTPServer, port={port}, bind='127.0.0.1')"
    )
    return Process(
        (sys.executable, "-uc", program),
        log=directory / "server.log",
        ready=partial(answers, f"http://127.0.0.1:{port}/"),
        start_within=10,
        stop_within=1,
    )


async def test_a_program_runs_to_its_end() -> None:
    result = await run("sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")


async def test_a_failure_shows_what_was_printed() -> None:
    with pytest.raises(ProcessFailed, match=r"exit 3: sh -c(.|\n)*because"):
        await run("sh", "-c", "echo because >&2; exit 3")


async def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(ProcessFailed, match=r"still running after 0\.1 s"):
        await run("sleep", "60", within=0.1)


async def test_a_server_is_ready_in_its_block_and_gone_after_it(tmp_path: Path) -> None:
    port = free_port()
    async with serving(tmp_path, port) as server:
        assert await answers(f"http://127.0.0.1:{port}/")
        assert "Serving HTTP" in server.log()
    assert server.returncode == -signal.SIGTERM
    assert not await answers(f"http://127.0.0.1:{port}/")


async def test_a_server_may_be_killed_and_started_again(tmp_path: Path) -> None:
    port = free_port()
    async with serving(tmp_path, port) as server:
        await server.kill()
        assert server.returncode == -signal.SIGKILL
        await server.start()
        assert await answers(f"http://127.0.0.1:{port}/")


async def test_a_server_that_dies_before_it_is_ready_tells_why(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"exit 1 before it was ready(.|\n)*broken"):
        await serving(tmp_path, free_port(), first="raise SystemExit('broken')").start()


async def test_a_server_that_ends_by_itself_fails_the_test(tmp_path: Path) -> None:
    server = serving(tmp_path, free_port())
    await server.start()
    os.kill(server.pid, signal.SIGKILL)
    await until(partial(_has_ended, server))
    with pytest.raises(ProcessFailed, match="ended by itself"):
        await server.__aexit__(None, None, None)


async def test_a_server_that_ignores_sigterm_is_forced_and_told_on(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with pytest.raises(ProcessFailed, match="still running after 1 s"):
        async with serving(tmp_path, free_port(), first=deaf) as server:
            pass
    assert server.returncode == -signal.SIGKILL


async def test_what_a_program_left_running_ends_with_it() -> None:
    start = "import subprocess as s; print(s.Popen(['sleep', '60'], stdout=-3, stderr=-3).pid)"
    result = await run(sys.executable, "-c", start)
    await until(partial(_is_gone, int(result.stdout)))


async def _has_ended(server: Process) -> bool:
    return server.returncode is not None


async def _is_gone(pid: int) -> bool:
    """Dead; whoever inherited it may not have reaped it yet."""
    return await asyncio.to_thread(_state, pid) in {"", "Z"}


def _state(pid: int) -> str:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    return ""
