"""Makes the screenshots of the README: `python -m tests.browser.screenshots`.

Of the real page in a real browser, over a mirror that has served a few hosts; small files.
"""

import asyncio
import tempfile
from pathlib import Path

from tests.browser.test_page import browsing
from tests.support.images import Image, files, image, random_layer
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.upstream import RateLimit, ScriptedRegistry

HERE = Path(__file__).parent
MIB = 2**20
SHAPE = {"width": 1080, "height": 640}
_WITHOUT_FONTS = ".languages { visibility: hidden }"  # not each machine has Chinese ones
IMAGE = "docker.io/library/tomcat:10"


def _fill(registry: ScriptedRegistry) -> dict[str, Image]:
    """Images that share a base, as images do."""
    base, java = random_layer(3 * MIB, seed=1), random_layer(5 * MIB, seed=2)
    shop = files({f"usr/local/tomcat/webapps.dist/ROOT/{n}.jsp": b"x" * n for n in range(9)})
    return {
        name: registry.add(image(*layers), f"library/{name}", tag)
        for name, tag, layers in (
            ("debian", "12", (base,)),
            ("tomcat", "10", (base, java, random_layer(2 * MIB, seed=3), shop)),
            ("maven", "3", (base, java, random_layer(MIB, seed=4))),
            ("nginx", "1", (base, random_layer(MIB, seed=5))),
            ("python", "3.12", (base, random_layer(60 * MIB, seed=6))),
        )
    }


async def _pull(mirror: MirrorProcess, name: str, tag: str, pulled: Image) -> None:
    await mirror.client.manifest(f"library/{name}", tag)
    for digest in pulled.blobs:
        await mirror.client.blob(f"library/{name}", digest)


async def _take(mirror: MirrorProcess, view: str, name: str, scheme: str) -> None:
    async with browsing(bypass_csp=True, color_scheme=scheme, viewport=SHAPE) as page:
        await page.goto(f"{mirror.admin_url}/page/{view}")
        await page.wait_for_timeout(3000)  # so that rates are told
        await page.screenshot(path=HERE / f"{name}.png", style=_WITHOUT_FONTS)


async def main() -> None:
    """Make them anew, beside this file."""
    with tempfile.TemporaryDirectory() as directory:
        async with ScriptedRegistry() as registry:
            registry.rate_limit = RateLimit(limit=200, remaining=188)
            images = _fill(registry)
            hub = upstream_at(registry.url, max_bandwidth="3 MB")
            async with running_mirror(Path(directory), {"docker.io": hub}) as mirror:
                await _show(registry, mirror, images)


async def _show(
    registry: ScriptedRegistry, mirror: MirrorProcess, images: dict[str, Image]
) -> None:
    for name, tag in (("debian", "12"), ("tomcat", "10"), ("maven", "3"), ("nginx", "1")):
        for _ in range(4):
            await _pull(mirror, name, tag, images[name])
    large = images["python"].layers[-1]
    await mirror.client.manifest("library/python", "3.12")
    async with asyncio.TaskGroup() as clients:
        _ = clients.create_task(mirror.client.blob("library/python", large))
        await _take(mirror, "now", "now", "light")
    await _take(mirror, f"image?image={IMAGE}", "image", "dark")


if __name__ == "__main__":
    asyncio.run(main())
