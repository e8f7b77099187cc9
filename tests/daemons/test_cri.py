"""A real containerd, asked as a kubelet asks it (CRI): by tag and digest, and without upstream."""

from collections.abc import AsyncIterator

import pytest

from tests.support.cri import Cri, CriFailed
from tests.support.daemons import running_containerd
from tests.support.images import Image
from tests.support.mirror import MirrorProcess
from tests.support.registry import Registry

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(120)]

NAME = "docker.io/library/hello:1"


@pytest.fixture
async def kubelet(mirror: MirrorProcess) -> AsyncIterator[Cri]:
    async with running_containerd(has_cri=True) as containerd:
        containerd.hosts_dir({"docker.io": mirror.url})
        yield Cri(containerd.socket)


async def test_a_kubelet_pulls_by_tag_and_by_digest_and_again_without_upstream(
    hub: Registry, mirror: MirrorProcess, hello: Image, kubelet: Cri
) -> None:
    await hub.push(hello, "library/hello", "1")
    by_digest = f"docker.io/library/hello@{hello.digest}"
    reference = await kubelet.pull(NAME)
    assert reference == hello.config
    await kubelet.remove(NAME)
    await hub.process.stop()
    asked = await mirror.metric("mirror_upstream_requests_total")
    assert await kubelet.pull(NAME) == reference
    await kubelet.remove(NAME)
    assert await kubelet.pull(by_digest) == reference
    assert await mirror.metric("mirror_upstream_requests_total") == asked
    labels = {"kind": "blob", "result": "hit"}
    assert await mirror.metric("mirror_lookups_total", **labels) >= len(hello.blobs)


async def test_a_kubelet_is_told_what_is_not_there(hub: Registry, kubelet: Cri) -> None:
    with pytest.raises(CriFailed, match=r"not found|failed to resolve"):
        await kubelet.pull("docker.io/library/nothing:1")
