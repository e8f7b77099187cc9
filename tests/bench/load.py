"""Load: many small requests (wrk), large bodies, slow readers. Wrong answers are failures."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import reader
from tests.bench.figures import Failed
from tests.bench.peers import Server
from tests.support.client import MANIFEST_TYPES
from tests.support.process import run

ACCEPT = {"Accept": ", ".join(MANIFEST_TYPES)}
PATIENCE_SECONDS = 60.0  # without any byte

_LARGEST_HEAD = 2048  # bytes of headers per response: what else wrk counts is body
_SCRIPT = """
wrk.headers["Accept"] = "{accept}"
local range, last = {range}, {last}
if range > 0 then
  function request()
    local start = math.random(0, last)
    return wrk.format("GET", nil, {{ Range = "bytes=" .. start .. "-" .. (start + range - 1) }})
  end
end
if {pause} > 0 then
  function delay() return {pause} end
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{{"requests": %d, "seconds": %f, "bytes": %.0f, "refused": %d, "lost": %d, "p99": %f}}',
    summary.requests, summary.duration / 1e6, summary.bytes, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Hits:
    """What wrk saw."""

    requests: int
    seconds: float
    p99_ms: float = 0.0

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Pull:
    """One client's way through one body; the times are seconds since all clients began."""

    bytes: int
    first: float
    seconds: float


async def hit(
    server: Server,
    target: str,
    *,
    size: int,
    connections: int,
    seconds: float,
    of: int = 0,
    pause_ms: int = 0,
) -> Hits:
    """GET a body of `size` over and over; with `of`, random ranges of `size` in so many bytes.

    `pause_ms`: how long a connection rests between two requests.
    """
    script = server.directory / "wrk.lua"
    text = _SCRIPT.format(
        accept=ACCEPT["Accept"], range=size if of else 0, last=max(0, of - size), pause=pause_ms
    )
    await asyncio.to_thread(script.write_text, text, encoding="utf-8")
    # wrk counts whole seconds.
    options = ("-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s")
    done = await run("wrk", *options, "-s", script, server.url + target, within=seconds + 60)
    seen = json.loads(done.stdout.splitlines()[-1])
    if seen["refused"] or seen["lost"] or not seen["requests"]:
        raise Failed(f"{seen['refused']} errors and {seen['lost']} lost of {seen['requests']}")
    if not size <= seen["bytes"] / seen["requests"] <= 1.1 * size + _LARGEST_HEAD:
        raise Failed(f"{seen['bytes']} bytes in {seen['requests']} answers of {size}")
    return Hits(seen["requests"], seen["seconds"], seen["p99"])


async def heads(server: Server, target: str, *, connections: int, seconds: float) -> Hits:
    """HEAD a target over and over."""
    plan = _plan(server, [target], clients=connections, method="HEAD", seconds=seconds)
    (seen,) = await _read(plan, within=seconds + 60)
    return Hits(seen["requests"], seen["seconds"])


async def pull(
    server: Server,
    targets: Mapping[str, int],
    *,
    clients: int = 1,
    times: int = 1,
    rate: int | None = None,
    seconds: float | None = None,
    patience: float = PATIENCE_SECONDS,
    within: float = 600,
) -> Sequence[Pull]:
    """Let clients GET targets, whose sizes are known, in order and `times` over.

    Each client has one connection, reads `rate` bytes per second at most, and leaves after
    `seconds`.
    """
    plan = _plan(
        server, [*targets] * times, clients=clients, rate=rate, seconds=seconds, patience=patience
    )
    seen = await _read(plan, within=within)
    for found in seen:
        complete = seconds is not None or found["bytes"] == found["length"]
        if found["length"] not in targets.values() or not found["bytes"] or not complete:
            raise Failed(f"{found['bytes']} bytes of {found['length']}: {list(targets)}")
    return [Pull(found["bytes"], found["first"], found["seconds"]) for found in seen]


def _plan(server: Server, targets: Sequence[str], **settings: Any) -> Mapping[str, Any]:
    ca_file = str(server.ca_file) if server.ca_file else None
    defaults = {"method": "GET", "rate": None, "seconds": None, "patience": PATIENCE_SECONDS}
    where = {"port": server.port, "ca_file": ca_file, "targets": targets, "headers": ACCEPT}
    return {**where, **defaults, **settings}


async def _read(plan: Mapping[str, Any], *, within: float) -> Sequence[Mapping[str, Any]]:
    script = Path(reader.__file__)
    done = await run(sys.executable, "-I", script, json.dumps(plan), within=within)
    seen: Sequence[Mapping[str, Any]] = json.loads(done.stdout)
    for found in seen:
        if "error" in found or found["status"] != 200:
            raise Failed(str(found.get("error") or f"status {found['status']}"))
    return seen
