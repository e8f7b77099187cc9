"""What real clients do is one pull to an operator, whatever they ask for."""

from pathlib import Path

import msgspec
import pytest

from mirror.control.models import Pulls
from mirror.history.ports import Pull
from mirror.telemetry.traffic import Result, Why
from tests.support.client import get
from tests.support.daemons import Containers, Docker
from tests.support.images import Image, files, image, index
from tests.support.mirror import MirrorProcess
from tests.support.registry import Registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

NAME = "docker.io/library/hello:1"


async def _pulls(mirror: MirrorProcess) -> list[Pull]:
    answer = await get(f"{mirror.admin_url}/api/v1/pulls")
    return msgspec.json.decode(answer.body, type=Pulls).pulls


async def test_a_pull_by_docker_is_one_line(
    hub: Registry, mirror: MirrorProcess, docker: Docker, hello: Image
) -> None:
    pushed = await hub.push(hello, "library/hello", "1")
    await docker("pull", "hello:1")
    (told,) = await _pulls(mirror)
    assert (told.repository, told.reference) == ("docker.io/library/hello", "1")
    assert (told.digest, told.result, told.why) == (pushed.digest, Result.MISS, Why.NEVER_SEEN)
    assert told.agent.startswith("docker/")
    size = len(pushed.manifest) + sum(map(len, pushed.blobs.values()))
    assert told.served == told.fetched == size
    assert (told.requests, told.failed) == (2 + len(pushed.blobs), 0)


async def test_a_pull_by_podman_and_one_of_all_platforms_by_skopeo_are_two_lines(
    hub: Registry, mirror: MirrorProcess, tools: Containers, tmp_path: Path
) -> None:
    members = [image(files({"name": it.encode()}), architecture=it) for it in ("amd64", "arm64")]
    pushed = await hub.push(index(*members), "library/hello", "1")
    await tools.podman("pull", "--quiet", "--arch", "amd64", NAME)
    await tools.skopeo("copy", "--all", f"docker://{NAME}", f"dir:{tmp_path / 'all'}")
    other, first = await _pulls(mirror)
    assert {(it.reference, it.digest) for it in (other, first)} == {("1", pushed.digest)}
    assert (first.result, first.why) == (Result.MISS, Why.NEVER_SEEN)
    assert (other.result, other.why) == (Result.MISS, Why.OTHER_PLATFORM)
    assert first.agent != other.agent
