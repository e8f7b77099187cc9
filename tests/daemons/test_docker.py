"""A real Docker daemon, with the mirror among its registry-mirrors."""

from pathlib import Path

import pytest

from tests.support.daemons import Docker, running_docker
from tests.support.images import Image, busybox, digest_of, files, image
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.registry import Registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

ORIGIN = "registry-1.docker.io"
expires_at_once = pytest.mark.parametrize("mirror", ["0s"], indirect=True)


async def test_an_image_is_pulled_run_removed_and_pulled_again_without_the_registry(
    hub: Registry, mirror: MirrorProcess, docker: Docker, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    await _pull_and_run(docker, hello)
    await _remove(docker)
    await hub.process.stop()
    asked = await mirror.metric("mirror_upstream_requests_total")
    await _pull_and_run(docker, hello)
    assert await mirror.metric("mirror_upstream_requests_total") == asked
    assert await mirror.metric("mirror_lookups_total", result="stale") == 0
    hits = await mirror.metric("mirror_lookups_total", kind="blob", result="hit")
    assert hits == len(hello.blobs)


@expires_at_once
async def test_a_tag_that_is_no_longer_fresh_is_served_stale_without_the_registry(
    hub: Registry, mirror: MirrorProcess, docker: Docker, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    await _pull_and_run(docker, hello)
    await _remove(docker)
    await hub.process.stop()
    await _pull_and_run(docker, hello)
    assert await mirror.metric("mirror_lookups_total", kind="tag", result="stale") > 0


@expires_at_once
async def test_a_tag_that_is_no_longer_fresh_costs_one_head_when_it_has_not_moved(
    hub: Registry, docker: Docker, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    await _pull_and_run(docker, hello)
    await _remove(docker)
    known = len(hub.asked())
    await _pull_and_run(docker, hello)
    assert hub.asked()[known:] == ["HEAD /v2/library/hello/manifests/1"]


@expires_at_once
async def test_a_tag_that_has_moved_brings_the_new_image(
    hub: Registry, docker: Docker, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    await _pull_and_run(docker, hello)
    moved = image(busybox(), files({"hello": b"Moved!\n"}), command=("/bin/cat", "/hello"))
    await hub.push(moved, "library/hello", "1")
    await _pull_and_run(docker, moved, says="Moved!\n")


async def test_of_a_second_image_only_what_is_new_comes_from_upstream_and_is_stored(
    hub: Registry, mirror: MirrorProcess, docker: Docker, hello: Image
) -> None:
    greeting = files({"hello": b"Hello again!\n"})
    again = image(busybox(), greeting, command=("/bin/cat", "/hello"), docker=True)
    assert again.layers[0] == hello.layers[0]
    await hub.push(hello, "library/hello", "1")
    await hub.push(again, "org/again", "1")
    await _pull_and_run(docker, hello)
    await _remove(docker)
    known, received = len(hub.asked()), await mirror.metric("mirror_upstream_bytes_total")
    await _pull_and_run(docker, again, name="org/again:1", says="Hello again!\n")
    new = [again.config, again.layers[1]]
    assert {asked for asked in hub.asked()[known:] if "/blobs/" in asked} == {
        f"GET /v2/org/again/blobs/{digest}" for digest in new
    }
    size = len(again.manifest) + sum(len(again.blobs[digest]) for digest in new)
    assert await mirror.metric("mirror_upstream_bytes_total") - received == size
    assert _copies(mirror.store_root, hello.layers[0]) == 1


async def test_an_image_with_layers_larger_than_the_whole_cache_is_pulled_and_run(
    tmp_path: Path, hub: Registry, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    upstreams, store = {"docker.io": upstream_at(hub.url)}, {"max_size": "100 KiB"}
    async with (
        running_mirror(tmp_path / "small", upstreams, store=store) as mirror,
        running_docker(mirror.url) as docker,
    ):
        await _pull_and_run(docker, hello)
        large = sum(len(content) > 100 * 1024 for content in hello.blobs.values())
        assert await mirror.metric("mirror_passed_through_total", part="all") == large > 0
        size = len(hello.manifest) + sum(map(len, hello.blobs.values()))
        assert await mirror.metric("mirror_upstream_bytes_total") <= 1.1 * size


async def test_docker_turns_to_the_origin_when_there_is_no_such_image(
    mirror: MirrorProcess, docker: Docker
) -> None:
    assert ORIGIN in await _why_not(docker, "unknown:1")
    assert await mirror.metric("mirror_requests_total", kind="tag", status="404") > 0


async def test_docker_turns_to_the_origin_when_upstream_is_down_and_nothing_is_cached(
    hub: Registry, mirror: MirrorProcess, docker: Docker, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    await hub.process.stop()
    assert ORIGIN in await _why_not(docker, "hello:1")
    assert await mirror.metric("mirror_requests_total", kind="tag", status="404") > 0


async def test_docker_turns_to_the_origin_without_retrying_when_layers_cannot_be_had(
    hub: Registry, mirror: MirrorProcess, docker: Docker, hello: Image
) -> None:
    await hub.push(hello, "library/hello", "1")
    assert (await mirror.client.manifest("library/hello", "1")).digest == hello.digest
    await hub.process.stop()
    assert ORIGIN in await _why_not(docker, "hello:1")
    assert await mirror.metric("mirror_requests_total", kind="blob", status="404") > 0
    assert "download failed after attempts=1:" in docker.process.log()


async def _pull_and_run(
    docker: Docker, wanted: Image, *, name: str = "hello:1", says: str = "Hello!\n"
) -> None:
    pulled = await docker("pull", name)
    assert f"Digest: {wanted.digest}" in pulled.stdout
    identity = await docker("image", "inspect", "--format={{.Id}}", name)
    assert identity.stdout.strip() == wanted.config
    assert (await docker("run", "--rm", "--network=none", name)).stdout == says


async def _remove(docker: Docker) -> None:
    await docker("rmi", "hello:1")
    assert (await docker("images", "--all", "--quiet")).stdout == ""


async def _why_not(docker: Docker, name: str) -> str:
    """What the daemon says when it cannot pull, from the mirror or otherwise."""
    pulled = await docker("pull", name, check=False)
    assert pulled.returncode != 0
    return pulled.stderr


def _copies(store_root: Path, digest: str) -> int:
    files = [path for path in store_root.rglob("*") if path.is_file()]
    return sum(digest_of(path.read_bytes()) == digest for path in files)
