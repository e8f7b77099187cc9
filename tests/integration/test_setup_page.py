"""What a browser is shown at the address that clients use."""

from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path

import pytest

from mirror.config import Config
from mirror.front.api import welcome as shown_by
from mirror.setup.clients import make_guide
from mirror.setup.welcome import ADDRESS, make_welcome
from tests.support.images import image, random_layer
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.upstream import ScriptedRegistry

BROWSER = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[MirrorProcess]:
    upstream.add(image(random_layer(1000, seed=1)), "library/secret", "1")
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as running:
        yield running


async def test_a_browser_is_shown_how_to_pull_through_this_address(mirror: MirrorProcess) -> None:
    await mirror.client.manifest("secret", "1")
    answer = await mirror.client.get("/", headers=BROWSER)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = unescape(answer.body.decode())
    guide = make_guide("docker", Config(), address=mirror.host)
    assert all(file.content.strip() in page for file in guide.files)
    for client in ("containerd", "Podman", "k3s"):
        assert client in page
    assert ADDRESS not in page
    assert "secret" not in page


async def test_who_is_no_browser_is_answered_as_by_any_registry(mirror: MirrorProcess) -> None:
    for accept in ("*/*", "application/json"):
        assert (await mirror.client.get("/", headers={"Accept": accept})).status == 404


@pytest.mark.parametrize("host", ["<script>", "a b", "x:1:2", "'", ""])
async def test_what_is_no_name_of_a_host_is_not_shown(mirror: MirrorProcess, host: str) -> None:
    answer = await mirror.client.get("/", headers={**BROWSER, "Host": host})
    assert answer.status >= 400
    assert b"<html" not in answer.body


def test_both_mean_the_same_address() -> None:
    assert shown_by._STANDS_FOR_US == ADDRESS  # noqa: SLF001 - they are in layers of their own
    assert make_welcome(Config()).count(ADDRESS) > 4
