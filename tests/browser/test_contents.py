"""What is in the cache, as a person sees it in a real browser."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from tests.browser.test_page import PHONE, browsing
from tests.support.images import Image, files, image, random_layer
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.upstream import ScriptedRegistry

NAME = "docker.io/org/app:1"
LONG = "a-name-as-long-as-some-have-it/" * 3 + "index.html"


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[MirrorProcess]:
    """With two images that share a layer, of which one is not all here."""
    base = files({f"srv/{LONG}": b"Hello!", "srv/<b>bold</b>\x1b[31m": b"red"})
    app = image(base, files({"srv/.wh.<b>bold<": b"", "etc/new": b"1" * 5000}))
    app = upstream.add(app, "org/app", "1")
    other = upstream.add(image(base, random_layer(9000, seed=1)), "org/other", "2")
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        await _pull(mirror, app, "org/app", "1", leaving=0)
        await _pull(mirror, other, "org/other", "2", leaving=1)
        yield mirror


async def _pull(
    mirror: MirrorProcess, pulled: Image, repository: str, tag: str, *, leaving: int
) -> None:
    assert (await mirror.client.manifest(repository, tag)).status == 200
    for digest in list(pulled.blobs)[: len(pulled.blobs) - leaving]:
        assert (await mirror.client.blob(repository, digest)).status == 200


async def test_one_finds_an_image_its_layers_and_its_files(mirror: MirrorProcess) -> None:
    async with browsing() as page:
        await page.goto(mirror.admin_url)
        await page.get_by_role("link", name="Images").click()
        await expect(page.get_by_role("row")).to_have_count(3)
        await page.get_by_label("Search").fill("app")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("row")).to_have_count(2)
        await page.get_by_role("link", name="docker.io/org/app").click()
        await page.get_by_role("link", name="1", exact=True).click()
        await expect(page.get_by_role("heading", name=NAME)).to_be_visible()
        await expect(page.locator("svg.layers rect.shared")).to_have_count(1)
        await expect(page.locator("svg.layers rect.only")).to_have_count(1)
        await page.get_by_role("link", name="Files").click()
        await page.get_by_role("link", name="srv/").click()
        await expect(page.get_by_text("<b>bold<", exact=True)).to_be_visible()
        await page.get_by_role("link", name="<b>bold<").click()
        await page.get_by_role("link", name=NAME).click()
        await page.get_by_role("link", name="docker.io/org/other:2").click()
        await expect(page.locator("svg.layers rect.missing")).to_have_count(1)


async def test_what_was_pulled_of_an_image_is_seen_and_what_endpoints_say_of_it(
    upstream: ScriptedRegistry, mirror: MirrorProcess
) -> None:
    async with browsing() as page:
        await page.goto(f"{mirror.admin_url}/page/images")
        row = page.get_by_role("row").filter(has_text="docker.io/org/app")
        await expect(row.get_by_role("cell").nth(5)).to_have_text("1")
        await row.get_by_role("link").click()
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="1", exact=True))
        await expect(row.get_by_role("cell").nth(6)).to_have_text("1")
        await row.get_by_role("button", name="Compare").click()
        compared = page.locator("#compared")
        there = compared.get_by_role("row").filter(has_text=upstream.url)
        await expect(there).to_contain_text("the same")
        upstream.add(image(random_layer(9, seed=7)), "org/app", "1")
        await page.goto(f"{mirror.admin_url}/page/image?image={NAME}")
        await page.get_by_role("button", name="Compare").click()
        await expect(there).to_contain_text("differs")
        await expect(there).to_contain_text("2 / 2")
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


async def test_what_would_go_next_is_seen_with_the_reason(mirror: MirrorProcess) -> None:
    async with browsing() as page:
        await page.goto(f"{mirror.admin_url}/page/store")
        row = page.get_by_role("row").filter(has_text="docker.io/org/app:1").first
        await expect(row).to_contain_text("others are asked for more")
        await expect(page.get_by_text("can come before anything has to go")).to_be_visible()


async def test_an_image_is_pinned_and_removed_where_it_is_looked_at(mirror: MirrorProcess) -> None:
    async with browsing(complains=True) as page:  # of what is refused
        await page.goto(f"{mirror.admin_url}/page/image?image={NAME}")
        await page.get_by_role("button", name="Pin").click()
        await expect(page.locator("#acted")).to_contain_text("done")
        await mirror.until_metric("mirror_pins", 1, state="complete")
        await page.get_by_role("button", name="Remove").click()
        await expect(page.locator("#acted")).to_contain_text("unpin it first")


async def test_what_is_not_here_is_said_to_be_so(mirror: MirrorProcess) -> None:
    async with browsing() as page:
        await page.goto(f"{mirror.admin_url}/page/image?image=nothing:1")
        await expect(page.get_by_text("nobody has asked for this tag yet")).to_be_visible()
        await page.goto(f"{mirror.admin_url}/page/image")
        await expect(page.locator("main p.down")).to_contain_text("image")
        await page.get_by_role("link", name="中文").click()
        await expect(page.get_by_role("link", name="所有仓库")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nobody_is_shut_out(mirror: MirrorProcess, tmp_path: Path, scheme: str) -> None:
    places = {
        "images": "images", "repository": "images?repository=docker.io/org/app",
        "image": f"image?image={NAME}", "files": f"files?image={NAME}&path=/srv",
        "none": "image?image=none",
    }  # fmt: skip
    async with browsing(color_scheme=scheme) as page:
        for name, place in places.items():
            await page.goto(f"{mirror.admin_url}/page/{place}")
            found = await Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            await page.screenshot(path=tmp_path / f"{name}-{scheme}.png", full_page=True)
            await page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE["width"], name
            await page.screenshot(path=tmp_path / f"{name}-{scheme}-phone.png", full_page=True)
            await page.set_viewport_size({"width": 1280, "height": 800})
