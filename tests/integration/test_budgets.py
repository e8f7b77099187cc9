"""`max_connections` and `max_bandwidth` hold, endpoint by endpoint."""

import asyncio

from tests.conftest import StartMirror
from tests.support.images import random_bytes
from tests.support.mirror import upstream_at
from tests.support.upstream import ScriptedRegistry


async def test_no_more_connections_are_made_than_allowed_and_a_question_still_finds_one(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    digests = [upstream.add_blob(random_bytes(2_000, seed=n), "library/app") for n in range(6)]
    gates = [upstream.hold(digest, after=10) for digest in digests]
    hub = upstream_at(upstream.url)
    hub["endpoints"][0]["max_connections"] = 3
    mirror = await start_mirror({"docker.io": hub})
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(mirror.client.blob("app", digest)) for digest in digests]
        await upstream.was_asked("blob", count=2)
        await mirror.until_metric("mirror_fills_active", len(digests))
        assert (await mirror.client.get("/v2/app/tags/list")).status == 200
        for gate in gates:
            gate.open()
    assert [pull.result().digest for pull in pulls] == digests
    assert upstream.peaks["blob"] == 2


async def test_upstream_is_read_no_faster_than_its_bandwidth(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """No time is asserted but the least that physics allows: 200 kB at 200 kB/s, less one burst."""
    content = random_bytes(200_000, seed=1)
    digest = upstream.add_blob(content, "library/app")
    hub = upstream_at(upstream.url)
    hub["endpoints"][0]["max_bandwidth"] = "200 KB"
    mirror = await start_mirror({"docker.io": hub})
    began = asyncio.get_running_loop().time()
    assert (await mirror.client.blob("app", digest)).body == content
    assert asyncio.get_running_loop().time() - began >= 0.7
