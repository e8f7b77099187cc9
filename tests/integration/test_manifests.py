"""Pulls of manifests: what upstream is asked, then what the client gets."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import OCI_MANIFEST, Image, digest_of, image, index, random_layer
from tests.support.upstream import ScriptedRegistry

FRESH_FOR = 60
MISSING_FOR = 10


@pytest.fixture
def alpine(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(1000, seed=1)), "library/alpine", "3.20")


async def test_a_manifest_arrives_as_upstream_has_it_with_all_its_headers(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    answer = await mirror.client.manifest("library/alpine", "3.20")
    assert upstream.questions() == [("tag", "GET", "3.20")]
    assert (answer.status, answer.body) == (200, alpine.manifest)
    assert answer.headers["Content-Type"] == alpine.media_type
    assert answer.headers["Docker-Content-Digest"] == alpine.digest
    assert answer.headers["ETag"] == f'"{alpine.digest}"'
    assert answer.headers["Content-Length"] == str(len(alpine.manifest))
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; stored"
    assert "Warning" not in answer.headers


@pytest.mark.parametrize("kind", ["docker", "oci", "docker list", "oci index", "sha512"])
async def test_every_kind_of_manifest_keeps_its_bytes_and_its_type(
    upstream: ScriptedRegistry, start_mirror: StartMirror, kind: str
) -> None:
    one = image(random_layer(10, seed=1), docker="docker" in kind)
    made = {
        "docker list": lambda: index(one, docker=True),
        "oci index": lambda: index(one),
        "sha512": lambda: image(random_layer(10, seed=1), algorithm="sha512"),
    }.get(kind, lambda: one)()
    upstream.add(made, "library/some", "1")
    mirror = await start_mirror()
    for reference in (made.digest, made.digest):  # a miss, then a hit
        answer = await mirror.client.manifest("some", reference)
        assert (answer.status, answer.body) == (200, made.manifest)
        assert answer.headers["Content-Type"] == made.media_type
        assert answer.headers["Docker-Content-Digest"] == made.digest
    assert upstream.questions() == [("manifest", "GET", made.digest)]


async def test_upstream_is_offered_all_four_types_whatever_the_client_accepts(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.get("/v2/alpine/manifests/3.20", headers={"Accept": "text/plain"})
    (asked,) = upstream.asked("tag")
    for media_type in (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ):
        assert media_type in asked.headers["Accept"]
    assert asked.headers["Accept-Encoding"] == "identity"


async def test_a_head_costs_one_get_upstream_and_pays_for_the_get_that_follows(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    head = await mirror.client.head("/v2/alpine/manifests/3.20")
    answer = await mirror.client.manifest("alpine", alpine.digest)
    assert upstream.questions() == [("tag", "GET", "3.20")]
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(alpine.manifest))
    assert head.headers["Docker-Content-Digest"] == alpine.digest
    assert head.headers["Content-Type"] == alpine.media_type
    assert answer.body == alpine.manifest
    assert answer.headers["Cache-Status"] == "mirror; hit"


async def test_a_tag_that_is_fresh_is_served_without_asking_upstream(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", "3.20")
    upstream.forget()
    clock.advance(FRESH_FOR - 1)
    answer = await mirror.client.manifest("alpine", "3.20")
    assert upstream.questions() == []
    assert answer.body == alpine.manifest
    assert answer.headers["Cache-Status"] == "mirror; hit"


async def test_a_tag_that_has_expired_costs_one_conditional_head(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", "3.20")
    upstream.forget()
    clock.advance(FRESH_FOR)
    answer = await mirror.client.manifest("alpine", "3.20")
    assert upstream.questions() == [("tag", "HEAD", "3.20")]
    assert upstream.requests[0].headers["If-None-Match"] == f'"{alpine.digest}"'
    assert answer.body == alpine.manifest
    assert answer.headers["Cache-Status"] == "mirror; fwd=stale; fwd-status=304"
    again = await mirror.client.manifest("alpine", "3.20")  # fresh again
    assert len(upstream.requests) == 1
    assert again.headers["Cache-Status"] == "mirror; hit"


async def test_a_registry_that_knows_no_conditions_confirms_by_its_digest(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", "3.20")
    clock.advance(FRESH_FOR)
    headers = {"Docker-Content-Digest": alpine.digest}
    upstream.fault(kind="tag", method="HEAD", body=b"", status=200, headers=headers)
    answer = await mirror.client.manifest("alpine", "3.20")
    assert answer.body == alpine.manifest
    assert answer.headers["Cache-Status"] == "mirror; fwd=stale; fwd-status=200"


async def test_a_tag_that_has_moved_costs_one_head_and_one_get(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", "3.20")
    upstream.forget()
    newer = upstream.add(image(random_layer(1000, seed=2)), "library/alpine", "3.20")
    clock.advance(FRESH_FOR)
    answer = await mirror.client.manifest("alpine", "3.20")
    assert upstream.questions() == [("tag", "HEAD", "3.20"), ("manifest", "GET", newer.digest)]
    assert answer.body == newer.manifest
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; stored"


async def test_a_tag_that_has_moved_to_what_is_cached_costs_one_head(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, clock: FakeClock
) -> None:
    newer = upstream.add(image(random_layer(1000, seed=2)), "library/alpine", "edge")
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", "3.20")
    await mirror.client.manifest("alpine", "edge")
    upstream.add(newer, "library/alpine", "3.20")
    upstream.forget()
    clock.advance(FRESH_FOR)
    answer = await mirror.client.manifest("alpine", "3.20")
    assert upstream.questions() == [("tag", "HEAD", "3.20")]
    assert answer.body == newer.manifest
    assert answer.headers["Cache-Status"] == "mirror; fwd=stale; fwd-status=200"


@pytest.mark.parametrize("refusal", [{"status": 405}, {"omit": ("Docker-Content-Digest",)}])
async def test_where_a_head_tells_nothing_a_get_is_made(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock, refusal: object
) -> None:
    mirror = await start_mirror()
    one = upstream.add(image(random_layer(10, seed=1)), "library/some", "1")
    await mirror.client.manifest("some", "1")
    newer = upstream.add(image(random_layer(10, seed=2)), "library/some", "1")
    assert isinstance(refusal, dict)
    upstream.fault(kind="tag", method="HEAD", **refusal)
    upstream.forget()
    clock.advance(FRESH_FOR)
    answer = await mirror.client.manifest("some", "1")
    assert upstream.questions() == [("tag", "HEAD", "1"), ("tag", "GET", "1")]
    assert (answer.status, answer.body) == (200, newer.manifest)
    assert one.manifest != newer.manifest


async def test_a_manifest_by_digest_is_asked_for_once_in_its_life(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", alpine.digest)
    clock.advance(400 * 86400)
    answer = await mirror.client.manifest("alpine", alpine.digest)
    await mirror.stop()
    mirror = await start_mirror()
    after_restart = await mirror.client.manifest("alpine", alpine.digest)
    assert upstream.questions() == [("manifest", "GET", alpine.digest)]
    assert answer.body == after_restart.body == alpine.manifest
    assert answer.headers["Cache-Status"] == after_restart.headers["Cache-Status"] == "mirror; hit"
    assert after_restart.headers["Content-Type"] == alpine.media_type


async def test_a_tag_outlives_a_restart(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", "3.20")
    await mirror.stop()
    mirror = await start_mirror()
    answer = await mirror.client.manifest("alpine", "3.20")
    assert upstream.questions() == [("tag", "GET", "3.20")]
    assert answer.headers["Cache-Status"] == "mirror; hit"


async def test_many_who_ask_for_one_cold_tag_cost_one_request(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    gate = upstream.hold("3.20")
    async with asyncio.TaskGroup() as clients:
        asking = [clients.create_task(mirror.client.manifest("alpine", "3.20")) for _ in range(20)]
        await gate.reached()
        gate.open()
    answers = [task.result() for task in asking]
    assert upstream.questions() == [("tag", "GET", "3.20")]
    assert {answer.body for answer in answers} == {alpine.manifest}
    statuses = sorted({answer.headers["Cache-Status"] for answer in answers})
    assert "mirror; fwd=miss; stored" in statuses
    assert set(statuses) <= {
        "mirror; fwd=miss; stored",
        "mirror; fwd=miss; collapsed",
        "mirror; hit",
    }


async def test_who_joins_a_request_that_is_under_way_is_told_so(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    gate = upstream.hold("3.20")
    async with asyncio.TaskGroup() as clients:
        first = clients.create_task(mirror.client.manifest("alpine", "3.20"))
        await gate.reached()
        second = clients.create_task(mirror.client.manifest("alpine", "3.20"))
        await mirror.client.get("/v2/")  # behind it, and so the second has been read
        gate.open()
    assert first.result().headers["Cache-Status"] == "mirror; fwd=miss; stored"
    assert second.result().headers["Cache-Status"] == "mirror; fwd=miss; collapsed"
    assert len(upstream.requests) == 1


async def test_a_client_that_leaves_does_not_end_the_request_of_another(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    gate = upstream.hold("3.20")
    async with asyncio.TaskGroup() as clients:
        leaving = clients.create_task(mirror.client.manifest("alpine", "3.20"))
        await gate.reached()
        staying = clients.create_task(mirror.client.manifest("alpine", "3.20"))
        await mirror.client.get("/v2/")
        leaving.cancel()
        await mirror.client.get("/v2/")
        gate.open()
    assert staying.result().body == alpine.manifest
    assert upstream.questions() == [("tag", "GET", "3.20")]


@pytest.mark.parametrize(
    "condition", ['"{0}"', 'W/"{0}"', '"other", "{0}"', "*"], ids=["exact", "weak", "list", "star"]
)
async def test_a_client_that_has_it_is_told_304(
    start_mirror: StartMirror, alpine: Image, condition: str
) -> None:
    mirror = await start_mirror()
    headers = {"If-None-Match": condition.format(alpine.digest)}
    answer = await mirror.client.get("/v2/alpine/manifests/3.20", headers=headers)
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["ETag"] == f'"{alpine.digest}"'
    assert answer.headers["Docker-Content-Digest"] == alpine.digest
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; stored"
    other = {"If-None-Match": f'"{digest_of(b"other")}"'}
    assert (await mirror.client.get("/v2/alpine/manifests/3.20", headers=other)).status == 200


@pytest.mark.parametrize("reference", ["nothing", digest_of(b"nothing")])
async def test_what_upstream_does_not_have_is_remembered_for_missing_for(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    alpine: Image,
    clock: FakeClock,
    reference: str,
) -> None:
    mirror = await start_mirror()
    told = []
    for _ in range(2):
        answer = await mirror.client.manifest("alpine", reference)
        assert answer.status == 404
        assert json.loads(answer.body)["errors"][0]["code"] == "MANIFEST_UNKNOWN"
        told.append(answer.headers["Cache-Status"])
    assert told == ["mirror; fwd=miss; detail=missing", "mirror; hit; detail=negative"]
    assert len(upstream.requests) == 1
    clock.advance(MISSING_FOR)
    await mirror.client.manifest("alpine", reference)
    assert len(upstream.requests) == 2


async def test_what_upstream_does_not_have_is_asked_for_again_though_the_clock_was_set_back(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, clock: FakeClock
) -> None:
    mirror = await start_mirror()
    assert (await mirror.client.manifest("alpine", "new")).status == 404
    upstream.add(alpine, "library/alpine", "new")
    clock.set_back(3600)
    clock.advance(MISSING_FOR)
    assert (await mirror.client.manifest("alpine", "new")).status == 200


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_that_there_is_no_such_manifest_says_nothing_of_a_blob(
    upstream: ScriptedRegistry, start_mirror: StartMirror, method: str
) -> None:
    """containerd asks for a digest as a manifest first, and then as a blob."""
    blob = upstream.add_blob(b"a blob", "library/alpine")
    mirror = await start_mirror()
    as_manifest = await mirror.client.head(f"/v2/alpine/manifests/{blob}")
    async with mirror.client.open(f"/v2/alpine/blobs/{blob}", method=method) as as_blob:
        assert as_blob.status == 200
    assert as_manifest.status == 404
    assert upstream.questions() == [("manifest", "GET", blob), ("blob", method, blob)]


async def test_a_manifest_known_from_another_repository_costs_one_head(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    upstream.add(alpine, "team/copy")
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", alpine.digest)
    upstream.forget()
    answer = await mirror.client.manifest("team/copy", alpine.digest)
    assert upstream.questions() == [("manifest", "HEAD", alpine.digest)]
    assert answer.body == alpine.manifest
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; detail=linked"
    again = await mirror.client.manifest("team/copy", alpine.digest)
    assert len(upstream.requests) == 1
    assert again.headers["Cache-Status"] == "mirror; hit"


@pytest.mark.parametrize("status", [405, 403])
async def test_where_a_head_is_refused_a_manifest_is_confirmed_by_get(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, status: int
) -> None:
    upstream.add(alpine, "team/copy")
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", alpine.digest)
    upstream.fault(kind="manifest", method="HEAD", status=status)
    upstream.forget()
    answer = await mirror.client.manifest("team/copy", alpine.digest)
    assert upstream.questions() == [
        ("manifest", "HEAD", alpine.digest),
        ("manifest", "GET", alpine.digest),
    ]
    assert (answer.status, answer.body) == (200, alpine.manifest)
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; detail=linked"


@pytest.mark.parametrize(("status", "told"), [(404, 404), (403, 403), (401, 403), (405, 405)])
async def test_knowing_a_digest_is_no_permission(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, status: int, told: int
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("alpine", alpine.digest)
    upstream.fault(repository="team/secret", status=status)
    answer = await mirror.client.manifest("team/secret", alpine.digest)
    assert answer.status == told
    assert alpine.manifest not in answer.body


async def test_a_manifest_that_is_not_what_its_digest_says_is_refused_and_not_kept(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror()
    upstream.fault(kind="manifest", corrupt_at=10, times=1)
    answer = await mirror.client.manifest("alpine", alpine.digest)
    assert answer.status == 502
    assert (await mirror.client.manifest("alpine", alpine.digest)).body == alpine.manifest
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    "body", [b"<html>Please pay</html>", b'{"errors": []}', b"{}", b"[]", b"null", b""]
)
async def test_a_captive_portal_is_no_manifest_and_an_error_document_neither(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image, body: bytes
) -> None:
    mirror = await start_mirror()
    upstream.fault(kind="tag", times=1, body=body, omit=("Docker-Content-Digest",))
    assert (await mirror.client.manifest("alpine", "3.20")).status == 502
    assert await mirror.metric("mirror_store_blobs") == 0
    assert (await mirror.client.manifest("alpine", "3.20")).body == alpine.manifest


async def test_a_fresh_tag_whose_manifest_was_evicted_is_fetched_again_by_digest(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror(store={"memory_cache": "0 B"})
    await mirror.client.manifest("alpine", "3.20")
    _remove_blobs(mirror.store_root)
    upstream.forget()
    answer = await mirror.client.manifest("alpine", "3.20")
    assert upstream.questions() == [("manifest", "GET", alpine.digest)]
    assert answer.body == alpine.manifest


async def test_a_fresh_tag_whose_manifest_is_gone_everywhere_is_asked_for_anew(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror(store={"memory_cache": "0 B"})
    await mirror.client.manifest("alpine", "3.20")
    _remove_blobs(mirror.store_root)
    del upstream.repositories["library/alpine"].manifests[alpine.digest]
    newer = upstream.add(image(random_layer(1000, seed=2)), "library/alpine", "3.20")
    upstream.forget()
    answer = await mirror.client.manifest("alpine", "3.20")
    assert upstream.questions() == [
        ("manifest", "GET", alpine.digest),
        ("tag", "HEAD", "3.20"),
        ("manifest", "GET", newer.digest),
    ]
    assert answer.body == newer.manifest


async def test_what_the_disk_does_not_give_is_fetched_again(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    mirror = await start_mirror(store={"memory_cache": "0 B"})
    await mirror.client.manifest("alpine", alpine.digest)
    _put_directories_in_place_of_blobs(mirror.store_root)
    upstream.forget()
    answer = await mirror.client.manifest("alpine", alpine.digest)
    assert upstream.questions() == [("manifest", "GET", alpine.digest)]
    assert (answer.status, answer.body) == (200, alpine.manifest)


async def test_a_layer_is_no_manifest_and_a_configuration_neither(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """Whatever is on disk under that digest: upstream decides what is a manifest."""
    large = upstream.add(image(random_layer(5 * 2**20, seed=3)), "library/large", "1")
    mirror = await start_mirror()
    await mirror.client.manifest("large", "1")
    for digest in large.blobs:
        assert (await mirror.client.blob("large", digest)).status == 200
    upstream.forget()
    for digest in large.blobs:
        assert (await mirror.client.manifest("large", digest)).status == 404
    assert upstream.questions() == [("manifest", "GET", digest) for digest in large.blobs]


async def test_what_upstream_calls_a_manifest_is_one_whatever_it_looks_like(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """By digest, nothing needs to make sense to us."""
    content = b"not JSON at all"
    odd = Image(content, OCI_MANIFEST)
    upstream.add(odd, "library/odd")
    mirror = await start_mirror()
    for status in ("mirror; fwd=miss; stored", "mirror; hit"):
        answer = await mirror.client.manifest("odd", odd.digest)
        assert (answer.status, answer.body) == (200, content)
        assert answer.headers["Cache-Status"] == status


async def test_a_layer_that_looks_like_a_manifest_is_not_read_into_memory(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    content = b'{"mediaType": "%s", "x": "%s"}' % (OCI_MANIFEST.encode(), b" " * 5 * 2**20)
    digest = upstream.add_blob(content, "library/alpine")
    mirror = await start_mirror()
    assert (await mirror.client.blob("alpine", digest)).body == content
    await mirror.until_metric("mirror_fills_active", 0)
    assert (await mirror.client.manifest("alpine", digest)).status == 404


async def test_a_tag_means_nothing_in_another_repository(
    upstream: ScriptedRegistry, start_mirror: StartMirror, alpine: Image
) -> None:
    other = upstream.add(image(random_layer(5, seed=9)), "library/other", "3.20")
    mirror = await start_mirror()
    assert (await mirror.client.manifest("alpine", "3.20")).body == alpine.manifest
    assert (await mirror.client.manifest("other", "3.20")).body == other.manifest


def _remove_blobs(store_root: Path) -> None:
    for file in store_root.rglob("sha256/*/*"):
        file.unlink()


def _put_directories_in_place_of_blobs(store_root: Path) -> None:
    for file in store_root.rglob("sha256/*/*"):
        file.unlink()
        file.mkdir()
