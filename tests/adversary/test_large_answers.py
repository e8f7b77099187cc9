"""Answers that are large, or become it, hold up nobody else (`nothing_holds_the_loop` watches)."""

import asyncio
import gzip
import json
import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest
from yarl import URL

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.edge import registry_at
from tests.support.evil import Ask, Evil, head, tells
from tests.support.images import OCI_MANIFEST, digest_of, image, random_layer
from tests.support.mirror import running_mirror, upstream_at
from tests.support.process import children_of, until

APP = image(random_layer(2_000, seed=52))
GZIP = b"Content-Encoding: gzip"
_JSON = b"Content-Type: application/json"
_MANIFEST = b"Content-Type: " + OCI_MANIFEST.encode()


@pytest.fixture
async def evil() -> AsyncIterator[Evil]:
    async with Evil() as upstream:
        yield upstream


def memory_of(process: int) -> int:
    """Bytes."""
    pages = Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _tags(count: int) -> list[str]:
    return [f"v1.{number}.0-rc" for number in range(count)]


async def test_six_clients_have_a_list_of_28_mib_and_it_is_fetched_once(
    evil: Evil, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    names = _tags(1_650_000)
    document = json.dumps({"name": "app", "tags": names}).encode()
    assert 28 * 2**20 < len(document) < 32 * 2**20
    evil.on("/tags/list", tells(document, _JSON))
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(mirror.client.get("/v2/app/tags/list")) for _ in range(6)]
    assert len(evil.asked) == 1
    pages = [pull.result() for pull in pulls]
    assert len({page.body for page in pages}) == 1
    found: list[str] = []
    page = pages[0]
    while True:
        found += json.loads(page.body)["tags"]
        if "Link" not in page.headers:
            break
        page = await mirror.client.get(page.headers["Link"].partition("<")[2].partition(">")[0])
    assert found == names


async def test_a_large_answer_is_copied_nowhere(evil: Evil, clock: FakeClock) -> None:
    piece, count = b"x" * 2**18, 100

    async def send(ask: Ask) -> None:
        await ask.send(head(b"HTTP/1.1 200 OK", b"Content-Length: %d" % (count * len(piece))))
        for _ in range(count):
            await ask.send(piece)

    evil.on("/large", send)
    async with registry_at(evil.url, clock) as registry:
        exchange = registry.endpoints[0].exchange
        tracemalloc.start()
        try:
            url = URL(f"{evil.url}/large")
            async with exchange.send("GET", url, {}, kind="tags") as response:
                content = await exchange.read(response, limit=2**25)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert content == piece * count
    assert peak < 1.5 * len(content)


async def test_large_lists_of_many_repositories_are_read_by_turns_and_small_ones_do_not_wait(
    evil: Evil, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    large = json.dumps({"name": "app", "tags": _tags(1_400_000)}).encode()
    may_end, come_far = asyncio.Event(), 0

    async def send_most(ask: Ask) -> None:
        nonlocal come_far
        length = b"Content-Length: %d" % len(large)
        await ask.send(head(b"HTTP/1.1 200 OK", length, _JSON))
        for start in range(0, len(large) - 2**20, 2**18):
            await ask.send(large[start : start + 2**18])
        come_far += 1
        await may_end.wait()
        await ask.send(large[start + 2**18 :])

    async def two_have_come_far() -> bool:
        return come_far == 2

    evil.on("/large", send_most)
    evil.on("/small/", tells(json.dumps({"name": "small", "tags": _tags(1000)}).encode(), _JSON))
    async with asyncio.TaskGroup() as clients:
        pulls = [
            clients.create_task(mirror.client.get(f"/v2/org/large{number}/tags/list"))
            for number in range(6)
        ]
        await until(two_have_come_far)
        assert (await mirror.client.get("/v2/org/small/tags/list")).status == 200
        await asyncio.sleep(1)  # in which the others do not come any farther
        assert come_far == 2
        may_end.set()
    assert [pull.result().status for pull in pulls] == [200] * 6


@pytest.mark.parametrize(
    "body", [b'"' + b"x" * 2**19, b"[" * 2**20, b'["a",' * 2**18, b"1," * 2**20]
)
async def test_a_large_list_that_makes_no_sense_is_no_answer(
    evil: Evil, start_mirror: StartMirror, body: bytes
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    for document in (body, b'{"tags":' + body + b"}", b'{"tags":[' + body + b"]}"):
        evil.on("/tags/list", tells(document, _JSON))
        answer = await mirror.client.get("/v2/app/tags/list")
        assert answer.status in {502, 503}, document[:30]


async def test_a_page_of_a_large_list_is_cut_where_a_registry_ignores_n(
    evil: Evil, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    names = _tags(60_000)
    evil.on("/tags/list", tells(json.dumps({"name": "app", "tags": names}).encode(), _JSON))
    answer = await mirror.client.get(f"/v2/app/tags/list?n=2&last={names[50_000]}")
    assert json.loads(answer.body)["tags"] == names[50_001:50_003]
    assert f"last={names[50_002]}" in answer.headers["Link"]


async def test_the_last_page_of_a_large_list_has_no_next_one(
    evil: Evil, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    names = _tags(60_000)
    evil.on("/tags/list", tells(json.dumps({"name": "app", "tags": names}).encode(), _JSON))
    answer = await mirror.client.get(f"/v2/app/tags/list?n=2&last={names[-2]}")
    assert json.loads(answer.body)["tags"] == names[-1:]
    assert "Link" not in answer.headers


async def test_an_accelerator_may_send_json_in_gzip_unasked(
    evil: Evil, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    evil.on("/manifests/", tells(gzip.compress(APP.manifest), _MANIFEST, GZIP))
    evil.on(
        "/tags/list", tells(gzip.compress(b'{"tags":["1"]}'), _JSON, b"Content-Encoding: x-gzip")
    )
    assert (await mirror.client.manifest("app", "1")).body == APP.manifest
    assert (await mirror.client.manifest("other", APP.digest)).body == APP.manifest
    answer = await mirror.client.get("/v2/app/tags/list")
    assert json.loads(answer.body)["tags"] == ["1"]
    assert "Content-Encoding" not in answer.headers


async def test_what_is_only_labelled_gzip_is_taken_as_it_is(
    evil: Evil, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    evil.on("/manifests/", tells(APP.manifest, _MANIFEST, GZIP))
    assert (await mirror.client.manifest("app", APP.digest)).body == APP.manifest


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(bytes(200 * 2**20)),
        gzip.compress(APP.manifest)[:-12],
        gzip.compress(APP.manifest)[:20] + b"\xff" * 30,
    ],
    ids=["a bomb", "cut off", "broken"],
)
async def test_gzip_that_makes_no_sense_is_no_answer(
    evil: Evil, start_mirror: StartMirror, body: bytes
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    evil.on("/v2/", tells(body, _MANIFEST, GZIP))
    for target in (
        "manifests/1",
        f"manifests/{APP.digest}",
        "tags/list",
        f"referrers/{APP.digest}",
    ):
        assert (await mirror.client.get(f"/v2/app/{target}")).status in {502, 503}


def _descriptors(count: int) -> list[dict[str, object]]:
    return [{"mediaType": "a/b", "digest": digest_of(b"%d" % n), "size": n} for n in range(count)]


@pytest.mark.parametrize(
    "layers",
    [
        json.dumps(_descriptors(33_000)).encode(),
        json.dumps(_descriptors(4_000)).encode(),
        b"[" + b",".join([b"[]"] * 1_300_000) + b"]",
        b"[" + b",".join([b"{}"] * 1_300_000) + b"]",
        b"[" + b",".join([b"1"] * 1_900_000) + b"]",
        b"[" * 4_000_000,
    ],
    ids=["33,000 layers", "4,000 layers", "lists", "objects", "numbers", "deep"],
)
async def test_a_large_manifest_is_passed_on_and_holds_up_nobody(
    evil: Evil, start_mirror: StartMirror, layers: bytes
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    document = b'{"schemaVersion":2,"mediaType":"%b","layers":%b}' % (OCI_MANIFEST.encode(), layers)
    assert len(document) < 4 * 2**20 + 2**17
    evil.on("/manifests/", tells(document, _MANIFEST))
    for _ in range(2):
        answer = await mirror.client.manifest("app", digest_of(document))
        assert (answer.status, answer.body) == (200, document)


async def test_who_takes_nothing_of_large_answers_does_not_fill_memory(
    evil: Evil, tmp_path: Path
) -> None:
    names = _tags(1_000_000)
    evil.on("/tags/list", tells(json.dumps({"name": "app", "tags": names}).encode(), _JSON))
    async with (
        running_mirror(
            tmp_path, {"docker.io": upstream_at(evil.url)}, server={"workers": 1}
        ) as mirror,
        AsyncExitStack() as silent,
    ):
        [worker] = children_of(mirror.process)
        host, _, port = mirror.host.partition(":")
        peak = 0
        for _ in range(60):
            _, writer = await asyncio.open_connection(host, int(port))
            silent.callback(writer.close)
            cast("asyncio.Transport", writer.transport).pause_reading()
            writer.write(b"GET /v2/app/tags/list HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.25)
            peak = max(peak, memory_of(worker))
        answer = await mirror.client.get("/v2/app/tags/list")
        assert json.loads(answer.body)["tags"][:2] == names[:2]
    assert peak < 450 * 2**20
