"""The operators' page as a person sees it, in a real browser."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import ConsoleMessage, Page, async_playwright, expect

from tests.support.client import get
from tests.support.images import Image, image, random_layer
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import PATIENCE
from tests.support.require import require
from tests.support.upstream import ScriptedRegistry

SIZE = 4 * 2**20
VIEWS = ("now", "history", "pulls", "waste", "endpoints", "store", "setup")
PHONE = {"width": 360, "height": 640}


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[MirrorProcess]:
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        yield mirror


@asynccontextmanager
async def browsing(*, complains: bool = False, **options: Any) -> AsyncIterator[Page]:
    """A browser's page; errors on its console, and requests of others, fail the test."""
    require("chromium")
    complaints: list[str] = []
    asked: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        try:
            context = await browser.new_context(**options)
            page = await context.new_page()
            expect.set_options(timeout=PATIENCE * 1000)
            page.on("console", note)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            yield page
            assert complains or complaints == []
            assert {url.split("/")[2] for url in asked} == {page.url.split("/")[2]}
        finally:
            await browser.close()


async def test_a_download_is_seen_as_it_goes_on(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    async with browsing() as page:
        await page.goto(mirror.admin_url)
        await expect(page.get_by_text("All is well.")).to_be_visible()
        await expect(page.get_by_text("Nothing is being downloaded.")).to_be_visible()
        gate = upstream.hold(str(app.layers[0]), after=SIZE // 2)
        async with asyncio.TaskGroup() as tasks:
            _ = tasks.create_task(mirror.client.blob("org/app", app.layers[0]))
            await gate.reached()
            row = page.get_by_role("row").filter(has_text="docker.io/org/app")
            await expect(row).to_contain_text("/ 4.0 MiB")
            await expect(row.get_by_role("progressbar")).to_be_visible()
            gate.open()
        await expect(page.get_by_text("Nothing is being downloaded.")).to_be_visible()
        await expect(page.locator(".figures")).to_contain_text("4.0 MiB")


async def test_what_is_down_is_seen_with_the_reason_and_then_that_it_is_back(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    async with browsing() as page:
        await page.goto(f"{mirror.admin_url}/page/endpoints")
        row = page.get_by_role("row").filter(has_text=upstream.url)
        await expect(row).to_contain_text("up")
        await mirror.client.manifest("org/app", "1")
        await expect(row).to_contain_text("90 % within")
        await upstream.stop()
        await mirror.client.manifest("org/app", "2")
        await expect(row).to_contain_text("down")
        await expect(row).to_contain_text("cannot be reached")
        await expect(page.get_by_role("heading", name="Needs attention")).to_be_visible()
        await expect(page.locator("svg.spells rect.down")).not_to_have_count(0)
        await expect(page.get_by_role("heading", name="When they were not up")).to_be_visible()
        await upstream.start()
        await expect(page.get_by_text("All is well.")).to_be_visible()


async def test_an_image_is_pinned_and_unpinned_and_removed_on_the_page(
    mirror: MirrorProcess, app: Image
) -> None:
    async with browsing(complains=True) as page:  # of what is refused
        await page.goto(f"{mirror.admin_url}/page/store")
        await expect(page.get_by_text("Nothing is pinned.")).to_be_visible()
        name = page.get_by_role("textbox", name="Image")
        await name.fill("org/app:1")
        await page.get_by_role("button", name="Pin").click()
        row = page.get_by_role("row").filter(has_text="docker.io/org/app:1")
        await expect(row).to_contain_text("complete")
        await expect(row).to_contain_text("an operator")
        await expect(name).to_have_value("org/app:1")  # what changes is elsewhere on the page
        await page.get_by_role("button", name="Remove").click()
        await expect(page.locator("#acted")).to_contain_text("is pinned: unpin it first")
        await row.get_by_role("button", name="Unpin").click()
        await expect(page.get_by_text("Nothing is pinned.")).to_be_visible()
        await page.get_by_role("button", name="Remove").click()
        await expect(page.locator("#acted")).to_contain_text("done")
        await expect(page.locator(".figures")).to_contain_text("Blobs0")
        await page.get_by_role("button", name="Fetch now").click()
        await mirror.until_metric("mirror_store_blobs", 3)


async def test_an_endpoint_is_paused_and_resumed_on_the_page(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    async with browsing() as page:
        await page.goto(f"{mirror.admin_url}/page/endpoints")
        row = page.get_by_role("row").filter(has_text=upstream.url)
        await row.get_by_role("button", name="Pause").click()
        await expect(row).to_contain_text("paused")
        await expect(page.locator("#acted")).to_contain_text("done")
        await expect(page.get_by_text("is asked nothing")).to_be_visible()
        await mirror.client.manifest("org/app", "1")
        assert upstream.questions() == []
        await row.get_by_role("button", name="Resume").click()
        await expect(row).to_contain_text("up")
        assert (await mirror.client.manifest("org/app", "1")).status == 200


async def test_clients_are_set_up_and_the_mirror_told_from_the_page(mirror: MirrorProcess) -> None:
    async with browsing() as page:
        await page.goto(f"{mirror.admin_url}/page/setup")
        await page.get_by_role("textbox", name="The mirror").fill("hub.example:5000")
        await page.get_by_role("button", name="Show").click()
        await expect(page.get_by_text('"registry-mirrors"')).to_contain_text(
            "http://hub.example:5000"
        )
        await page.get_by_text("Podman, Buildah, Skopeo", exact=True).click()
        await expect(page.get_by_text("[[registry.mirror]]").first).to_be_visible()
        await page.get_by_role("combobox").select_option("debug")
        await page.get_by_role("button", name="Set", exact=True).click()
        await expect(page.locator("#acted")).to_contain_text("done")
        await page.reload()
        await expect(page.get_by_role("combobox")).to_have_value("debug")
        await page.get_by_role("button", name="Read settings anew").click()
        await mirror.until_metric("mirror_reloads_total", 1, outcome="done")
        await page.goto(f"{mirror.admin_url}/page/setup?address=no+address")
        await expect(page.get_by_role("alert")).to_contain_text("is not an address")


async def test_a_mirror_that_restarts_under_the_open_page_is_waited_for(
    mirror: MirrorProcess,
) -> None:
    async with browsing(complains=True) as page:  # of the connection that was refused
        await page.goto(mirror.admin_url)
        lost = page.get_by_text("This page is no longer up to date")
        await expect(lost).to_be_hidden()
        await mirror.process.stop()
        await expect(lost).to_be_visible()
        await mirror.process.start()
        await expect(lost).to_be_hidden()
        await expect(page.get_by_text("All is well.")).to_be_visible()


async def test_one_gets_around_by_keyboard(mirror: MirrorProcess) -> None:
    async with browsing() as page:
        await page.goto(mirror.admin_url)
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        for name in ("Now", "History", "Images", "Pulls", "Waste", "Endpoints", "Store"):
            await page.keyboard.press("Tab")
            await expect(page.get_by_role("link", name=name)).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Store")).to_be_visible()
        await expect(page.get_by_role("link", name="Store")).to_have_attribute(
            "aria-current", "page"
        )


async def test_it_speaks_the_browsers_language_or_the_chosen_one(mirror: MirrorProcess) -> None:
    async with browsing(locale="zh-CN") as page:
        await page.goto(mirror.admin_url)
        await expect(page.get_by_text("一切正常。")).to_be_visible()
        await page.get_by_role("link", name="English").click()
        await expect(page.get_by_text("All is well.")).to_be_visible()
        await page.get_by_role("link", name="Store").click()
        await expect(page.get_by_text("Free on the disk")).to_be_visible()


@pytest.mark.parametrize("locale", ["en", "zh-CN"])
async def test_it_fits_a_phone_and_shuts_nobody_out_there(
    mirror: MirrorProcess, tmp_path: Path, locale: str
) -> None:
    async with browsing(viewport=PHONE, locale=locale) as page:
        for view in VIEWS:
            await page.goto(f"{mirror.admin_url}/page/{view}")
            await page.screenshot(path=tmp_path / f"{view}-phone.png", full_page=True)
            found = await Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_nobody_is_shut_out(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image, tmp_path: Path, scheme: str
) -> None:
    """By axe-core: contrast, names, roles and the rest of WCAG that a machine can see."""
    await mirror.client.blob("org/app", app.layers[0])
    async with browsing() as page:
        await page.goto(f"{mirror.admin_url}/page/store")
        await page.get_by_role("textbox", name="Image").fill("org/app:1")
        await page.get_by_role("button", name="Pin").click()
        await expect(page.get_by_role("button", name="Unpin")).to_be_visible()
    await upstream.stop()
    await mirror.client.manifest("org/app", "2")
    async with browsing(color_scheme=scheme) as page:
        for view in VIEWS:
            await page.goto(f"{mirror.admin_url}/page/{view}")
            shows_problems = view in {"now", "endpoints", "store"}
            heading = "Needs attention" if shows_problems else view.capitalize()
            await expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
            found = await Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            await page.screenshot(path=tmp_path / f"{view}-{scheme}.png", full_page=True)


async def test_a_pull_is_seen_with_its_reason_as_it_happens(
    upstream: ScriptedRegistry, mirror: MirrorProcess, app: Image
) -> None:
    async with browsing() as page:
        await page.goto(f"{mirror.admin_url}/page/pulls")
        await expect(page.get_by_text("Nothing was pulled.")).to_be_visible()
        await mirror.client.manifest("org/app", "1")
        row = page.get_by_role("row").filter(has_text="docker.io/org/app")
        await expect(row).to_contain_text("it was pulled here for the first time")
        await expect(row).to_contain_text("127.0.0.1")
        await mirror.client.manifest("org/other", "1")
        lump = page.get_by_role("row").filter(has_text="others of docker.io")
        await expect(lump).to_contain_text("upstream does not have it")


async def test_what_was_saved_is_seen_over_time_and_by_repository(
    mirror: MirrorProcess, app: Image
) -> None:
    for _ in range(3):
        await mirror.client.blob("org/app", app.layers[0])
    async with browsing() as page:
        await page.goto(f"{mirror.admin_url}/page/history")
        await expect(page.locator(".figures")).to_contain_text("8.0 MiB")
        await expect(page.locator("svg.bars rect.more")).not_to_have_count(0)
        await page.get_by_role("link", name="Repository").click()
        row = page.get_by_role("row").filter(has_text="docker.io/org/app")
        await expect(row).to_contain_text("12.0 MiB")
        await page.get_by_role("link", name="1 year").click()
        await expect(row).to_contain_text("12.0 MiB")
        await row.get_by_role("link").click()
        await expect(page.get_by_text("everything")).to_be_visible()
        await expect(page.get_by_role("link", name="1 year")).to_have_attribute(
            "aria-current", "true"
        )


async def test_what_costs_the_line_is_seen(mirror: MirrorProcess, app: Image) -> None:
    await mirror.client.blob("org/app", app.layers[0])
    async with browsing(locale="zh-CN") as page:
        await page.goto(f"{mirror.admin_url}/page/waste")
        await expect(page.get_by_role("heading", name="占用线路最多")).to_be_visible()
        row = page.get_by_role("row").filter(has_text="docker.io/org/app")
        await expect(row).to_contain_text("4.0 MiB")


async def test_a_browser_asks_for_the_token(upstream: ScriptedRegistry, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("open sesame\n")
    async with running_mirror(
        tmp_path, {"docker.io": upstream_at(upstream.url)}, admin={"token_file": str(token)}
    ) as mirror:
        answer = await get(mirror.admin_url)
        assert (answer.status, b"admin.token_file" in answer.body) == (401, True)
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        who = {"username": "anybody", "password": "open sesame"}
        async with browsing(http_credentials=who) as page:
            await page.goto(mirror.admin_url)
            await expect(page.get_by_text("All is well.")).to_be_visible()
