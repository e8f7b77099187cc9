"""A blob that nobody has pulled yet: one transfer, many readers, nothing unproved."""

import asyncio
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.auth import BearerAuth
from tests.support.client import Answer, Client
from tests.support.images import Image, digest_of, image, random_bytes, random_layer
from tests.support.mirror import InnerMirror
from tests.support.process import until
from tests.support.upstream import Cdn, ScriptedRegistry

SIZE = 1_000_000
LAYER = random_layer(SIZE, seed=1)


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(LAYER), "library/app", "1")


async def _has_readers(mirror: InnerMirror, count: int) -> bool:
    return await mirror.metric("mirror_fill_readers") == count


def _blobs(store: Path) -> list[Path]:
    return [path for path in (store / "blobs").rglob("*") if path.is_file()]


def _partials(store: Path) -> list[Path]:
    return [path for path in (store / "partial").glob("*/*") if path.is_file()]


async def _pull_in_vain(client: Client, digest: str) -> str:
    """How a pull ends that must not succeed."""
    try:
        answer = await client.blob("app", digest)
    except aiohttp.ClientPayloadError:
        return "aborted"
    return str(answer.status)


async def test_fifty_clients_at_once_cost_one_transfer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    await mirror.client.manifest("app", "1")
    gate = upstream.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(mirror.client.blob("app", layer)) for _ in range(50)]
        await until(partial(_has_readers, mirror, 50))
        gate.open()
    answers = [pull.result() for pull in pulls]
    assert {answer.digest for answer in answers} == {layer}
    assert upstream.bytes_sent(layer) == SIZE
    assert len(upstream.asked(reference=layer)) == 1
    ways = sorted(answer.headers["Cache-Status"] for answer in answers)
    assert ways == ["mirror; fwd=miss; collapsed"] * 49 + ["mirror; fwd=miss; stored"]
    await until(partial(_committed, mirror, 1))
    await until(partial(_has_readers, mirror, 0))


async def test_a_client_that_leaves_in_the_middle_disturbs_nobody(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    gate = upstream.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        async with mirror.client.open(f"/v2/app/blobs/{layer}") as leaver:
            await leaver.content.readexactly(1000)
            staying = [clients.create_task(mirror.client.blob("app", layer)) for _ in range(3)]
            await until(partial(_has_readers, mirror, 4))
            leaver.close()
        await until(partial(_has_readers, mirror, 3))
        gate.open()
    assert {pull.result().digest for pull in staying} == {layer}
    assert upstream.bytes_sent(layer) == SIZE


async def test_a_fill_goes_on_when_all_its_clients_have_left(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    gate = upstream.hold(layer, after=SIZE // 2)
    async with mirror.client.open(f"/v2/app/blobs/{layer}") as leaver:
        await leaver.content.readexactly(1000)
        leaver.close()
    await until(partial(_has_readers, mirror, 0))
    gate.open()
    await until(partial(_committed, mirror, 1))
    upstream.forget()
    answer = await mirror.client.blob("app", layer)
    assert answer.digest == layer
    assert answer.headers["Cache-Status"] == "mirror; hit"
    assert upstream.requests == []


async def _committed(mirror: InnerMirror, count: int) -> bool:
    return await mirror.metric("mirror_fills_total", outcome="committed") == count


@pytest.mark.parametrize("position", [0, SIZE // 2, SIZE - 1])
async def test_a_corrupted_byte_reaches_nobody_as_a_completed_response(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, position: int
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    await mirror.client.manifest("app", "1")
    stored = _blobs(mirror.store_root)
    fault = upstream.fault(reference=layer, corrupt_at=position, times=1)
    gate = upstream.hold(layer, after=SIZE // 2)
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(_pull_in_vain(mirror.client, layer)) for _ in range(5)]
        await until(partial(_has_readers, mirror, 5))
        gate.open()
    assert [pull.result() for pull in pulls] == ["aborted"] * 5
    assert len(fault.struck) == 1
    assert _blobs(mirror.store_root) == stored
    assert _partials(mirror.store_root) == []
    assert await mirror.metric("mirror_fills_total", outcome="mismatch") == 1
    answer = await mirror.client.blob("app", layer)
    assert answer.digest == layer


async def test_a_range_of_a_small_corrupted_blob_is_not_completed_either(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    await mirror.client.manifest("app", "1")
    upstream.fault(reference=layer, corrupt_at=SIZE - 1, times=1)
    target = f"/v2/app/blobs/{layer}"
    with pytest.raises(aiohttp.ClientPayloadError):
        await mirror.client.get(target, headers={"Range": "bytes=10-19"})
    answer = await mirror.client.get(target, headers={"Range": "bytes=10-19"})
    assert (answer.status, answer.body) == (206, LAYER.blob[10:20])


async def test_a_body_without_a_length_is_kept_like_any_other(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", chunked=True, ignore_range=True)
    first = await mirror.client.blob("app", layer)
    assert first.digest == layer
    await until(partial(_committed, mirror, 1))
    upstream.forget()
    assert (await mirror.client.blob("app", layer)).digest == layer
    assert upstream.requests == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_without_a_length_that_is_cut_is_continued(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, *, chunked: bool
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    upstream.fault(kind="blob", truncate_at=300_000, times=1)
    upstream.fault(kind="blob", chunked=chunked)
    assert (await mirror.client.blob("app", layer)).digest == layer
    assert upstream.bytes_sent(layer) == SIZE


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_empty_blob_is_a_blob(
    upstream: ScriptedRegistry, start_mirror: StartMirror, *, chunked: bool
) -> None:
    mirror = await start_mirror()
    empty = upstream.add_blob(b"", "library/app")
    upstream.fault(kind="blob", chunked=chunked)
    answer = await mirror.client.blob("app", empty)
    assert (answer.status, answer.body) == (200, b"")
    await until(partial(_committed, mirror, 1))
    answer = await mirror.client.blob("app", empty)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Cache-Status"] == "mirror; hit"


async def test_a_blob_that_no_manifest_has_told_of_is_found_all_the_same(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror()
    digest = upstream.add_blob(LAYER.blob, "library/app")
    assert (await mirror.client.blob("app", digest)).digest == digest
    assert [asked.method for asked in upstream.asked("blob")] == ["GET"]


async def test_a_sha512_blob_is_proved_by_sha512(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror()
    digest = upstream.add_blob(LAYER.blob, "library/app", "sha512")
    fault = upstream.fault(kind="blob", corrupt_at=77, times=1)
    assert await _pull_in_vain(mirror.client, digest) == "aborted"
    assert len(fault.struck) == 1
    answer = await mirror.client.blob("app", digest)
    assert digest_of(answer.body, "sha512") == digest


async def test_a_login_page_of_another_size_costs_a_try_and_not_the_pull(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    await mirror.client.manifest("app", "1")
    fault = upstream.fault(reference=layer, body=b"<html>please log in</html>", times=1)
    assert (await mirror.client.blob("app", layer)).digest == layer
    assert len(fault.struck) == 1


async def test_a_login_page_is_proved_before_anybody_reads_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    await mirror.client.manifest("app", "1")
    upstream.fault(reference=layer, body=b"<html>please log in</html>")
    assert await _pull_in_vain(mirror.client, layer) == "502"
    assert _partials(mirror.store_root) == []
    upstream.faults.clear()
    assert (await mirror.client.blob("app", layer)).digest == layer


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_empty_body_is_proved_before_its_response_completes(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, *, chunked: bool
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    fault = upstream.fault(reference=layer, body=b"", chunked=chunked, ignore_range=True)
    assert await _pull_in_vain(mirror.client, layer) in {"502", "aborted"}
    assert fault.struck
    upstream.faults.clear()
    assert (await mirror.client.blob("app", layer)).digest == layer


async def test_a_head_of_a_cold_blob_transfers_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror()
    digest = upstream.add_blob(LAYER.blob, "library/app")
    answer = await mirror.client.head(f"/v2/app/blobs/{digest}")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(SIZE))
    assert [asked.method for asked in upstream.asked("blob")] == ["HEAD"]
    assert upstream.bytes_sent(digest) == 0
    assert await mirror.metric("mirror_fills_active") == 0


async def test_more_fills_than_max_active_wait_for_their_turn(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror(fill={"max_active": 2})
    digests = [
        upstream.add_blob(random_bytes(100_000, seed=seed), "library/app") for seed in range(6)
    ]
    gates = [upstream.hold(digest, after=50_000) for digest in digests]
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(mirror.client.blob("app", digest)) for digest in digests]
        await upstream.was_asked("blob", count=2)
        await until(partial(_active, mirror, 6))
        for gate in gates:
            gate.open()
    assert [pull.result().digest for pull in pulls] == digests
    assert upstream.peaks["blob"] == 2


async def _active(mirror: InnerMirror, count: int) -> bool:
    return await mirror.metric("mirror_fills_active") == count


async def test_a_blob_that_cannot_be_kept_is_passed_through(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror(store={"max_size": "500 KiB"})
    [layer] = app.layers
    await mirror.client.manifest("app", "1")
    for _ in range(2):
        answer = await mirror.client.blob("app", layer)
        assert answer.digest == layer
        assert answer.headers["Cache-Status"] == "mirror; fwd=miss"
    target = f"/v2/app/blobs/{layer}"
    part = await mirror.client.get(target, headers={"Range": "bytes=5000-599999"})
    assert (part.status, part.body) == (206, LAYER.blob[5000:600_000])
    assert _partials(mirror.store_root) == []
    assert await mirror.metric("mirror_store_bytes") < 500 * 1024


@pytest.mark.parametrize("position", [0, SIZE - 1])
async def test_what_is_passed_through_is_proved_too(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, position: int
) -> None:
    mirror = await start_mirror(store={"max_size": "500 KiB"})
    [layer] = app.layers
    await mirror.client.manifest("app", "1")
    upstream.fault(kind="blob", reference=layer, corrupt_at=position, times=1)
    assert await _pull_in_vain(mirror.client, layer) in {"aborted", "502"}
    assert (await mirror.client.blob("app", layer)).digest == layer


async def test_a_cold_image_costs_the_minimum(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    upstream.cdn = Cdn()
    layers = [random_layer(50_000, seed=seed) for seed in range(3)]
    app = upstream.add(image(*layers), "library/app", "1")
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    await mirror.client.manifest("app", app.digest)
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(mirror.client.blob("app", digest)) for digest in app.blobs]
    assert [pull.result().digest for pull in pulls] == list(app.blobs)
    asked = sorted((asked.kind, asked.method, asked.status) for asked in upstream.requests)
    assert asked == [
        *[("blob", "GET", 307)] * 4,
        *[("cdn", "GET", 200)] * 4,
        ("tag", "GET", 200),
        ("tag", "GET", 401),  # how the token server is found, once
        ("token", "GET", 200),
    ]


async def test_the_response_begins_before_the_blob_has_arrived(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    [layer] = app.layers
    gate = upstream.hold(layer, after=SIZE // 2)
    async with mirror.client.open(f"/v2/app/blobs/{layer}") as response:
        head = await response.content.readexactly(SIZE // 4)
        assert not upstream.asked(reference=layer)[0].ended
        gate.open()
        answer = Answer(response.status, response.headers, head + await response.read())
    assert answer.digest == layer
