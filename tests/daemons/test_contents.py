"""What is in the cache, as operators are told it, beside what skopeo and podman say of the same."""

import asyncio
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemons import Containers
from tests.support.images import Image, artifact, busybox, files, image, index
from tests.support.mirror import MirrorProcess
from tests.support.process import run
from tests.support.registry import Registry
from tests.support.require import require

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(180)]

APP, OTHER = "docker.io/org/app", "docker.io/org/other"


@pytest.fixture
def app() -> Image:
    """As tomcat's image is: what a layer has put there, a later one has moved."""
    require("busybox")
    return image(
        busybox(),
        files({"srv/webapps/ROOT/index.html": b"Hello!", "srv/conf/server.xml": b"<Server/>"}),
        files({"srv/webapps/.wh.ROOT": b"", "srv/webapps.dist/ROOT/index.html": b"Hello!"}),
    )


class Cli:
    """`mirror`, with the configuration of a mirror."""

    def __init__(self, directory: Path) -> None:
        self._config = directory / "mirror.toml"

    async def text(self, verb: str, *words: str, status: int = 0) -> str:
        command = (sys.executable, "-m", "mirror", verb, "--config", self._config)
        result = await run(*command, *words, check=False)
        assert result.returncode == status, result.stderr
        return result.stdout if not status else result.stdout + result.stderr

    async def json(self, *words: str) -> Any:
        return json.loads(await self.text(*words, "--json"))


@pytest.fixture
def cli(mirror: MirrorProcess, tmp_path: Path) -> Cli:
    return Cli(tmp_path / "mirror")


async def test_sizes_are_those_that_skopeo_tells_and_sharing_is_told_apart(
    hub: Registry, tools: Containers, cli: Cli, app: Image, tmp_path: Path
) -> None:
    await hub.push(app, "org/app", "1")
    await hub.push(app, "org/app", "stable")
    await hub.push(image(busybox(), files({"other": b"Other"})), "org/other", "1")
    for name in (f"{APP}:1", f"{APP}:stable", f"{OTHER}:1"):
        await tools.skopeo("copy", f"docker://{name}", f"dir:{tmp_path / name.replace('/', '-')}")
    said = json.loads((await tools.skopeo("inspect", "--raw", f"docker://{APP}:1")).stdout)
    sizes = {it["digest"]: it["size"] for it in said["layers"]}
    shared = sizes[app.layers[0]]
    whole = sum(sizes.values()) + len(app.manifest) + len(app.blobs[app.config])

    told = {it["name"]: it for it in (await cli.json("ls"))["repositories"]}
    assert told[APP]["sizes"] == {"blobs": 5, "bytes": whole, "only_here": whole - shared}
    assert (told[APP]["tags"], told[OTHER]["tags"]) == (2, 1)
    (one,) = (await cli.json("ls", "org/app"))["images"]
    assert (one["digest"], one["tags"], one["named"]) == (app.digest, ["1", "stable"], 5)
    assert one["sizes"] == told[APP]["sizes"]
    seen = await cli.json("inspect", f"{APP}:1", "--having", f"{OTHER}:1")
    assert {it["digest"]: it["size"] for it in seen["layers"]} == sizes
    assert seen["download"] == whole - len(app.manifest)
    assert seen["missing"] == seen["download"] - shared
    assert [it["shared_with"] for it in seen["layers"]] == [[f"{OTHER}:1"], [], []]
    alone = told[APP]["sizes"]["only_here"] + told[OTHER]["sizes"]["only_here"]
    on_disk = (await cli.json("status"))["store"]["bytes"]
    assert alone + shared == on_disk

    assert "2 repositories" in await cli.text("du")


async def test_a_mirror_that_does_not_run_is_looked_into_and_tells_the_same(
    hub: Registry, mirror: MirrorProcess, cli: Cli, app: Image
) -> None:
    await hub.push(app, "org/app", "1")
    assert (await mirror.client.manifest("org/app", "1")).status == 200
    for digest in app.blobs:
        assert (await mirror.client.blob("org/app", digest)).status == 200
    questions = [
        ("ls",), ("ls", "org/app"), ("du",), ("inspect", f"{APP}:1"), ("files", f"{APP}:1", "-r"),
        ("diff", f"{APP}:1", f"{APP}:1"),
    ]  # fmt: skip
    running = [await cli.json(*one) for one in questions]
    await mirror.process.stop()
    resting = [await cli.json(*one) for one in questions]
    for told in (running[0], resting[0], running[2], resting[2]):
        told["repositories"][0].pop("last_pull")  # written down in batches
    for told in (running[1], resting[1]):
        told["images"][0].pop("last_pull")
    assert resting == running
    meaning = running[3]["meaning"]
    assert (meaning["digest"], meaning["told_by"]) == (app.digest, hub.host)
    assert 0 < meaning["since"] <= meaning["checked_at"]
    assert [it["created_by"] for it in running[3]["layers"]] == ["test"] * 3
    assert "no mirror answers" in await cli.text("compare", f"{APP}:1", status=1)


async def test_files_are_those_that_podman_unpacks_and_what_was_removed_is_told(
    hub: Registry, tools: Containers, cli: Cli, app: Image, tmp_path: Path
) -> None:
    await hub.push(app, "org/app", "1")
    await tools.podman("create", "--name", "app", f"{APP}:1")
    await tools.podman("export", "--output", str(tmp_path / "app.tar"), "app")

    def unpacked() -> dict[str, int]:
        with tarfile.open(tmp_path / "app.tar") as archive:
            return {f"/{it.name}": it.size for it in archive if it.isreg()}

    theirs = await asyncio.to_thread(unpacked)
    found = (await cli.json("files", f"{APP}:1", "-r"))["files"]
    ours = {it["path"]: it["size"] for it in found if it["type"] == "-"}
    made_by_podman = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run/.containerenv"}
    assert ours == {path: size for path, size in theirs.items() if path not in made_by_podman}
    assert ours["/srv/webapps.dist/ROOT/index.html"] == 6

    (gone,) = (await cli.json("files", f"{APP}:1", "/srv/webapps"))["files"]
    assert (gone["path"], gone["type"], gone["layer"]) == ("/srv/webapps/ROOT", "x", 2)
    assert (gone["files"], gone["size"]) == (1, 6)
    text = await cli.text("files", f"{APP}:1", "/srv/webapps")
    assert "/srv/webapps/ROOT: removed" in text

    await hub.push(image(busybox(), files({"srv/conf/server.xml": b"<Other/>"})), "org/app", "2")
    await tools.skopeo("copy", f"docker://{APP}:2", f"dir:{tmp_path / 'second'}")
    changes = (await cli.json("diff", f"{APP}:1", f"{APP}:2"))["changes"]
    assert {it["path"]: (it["kind"], it["what"]) for it in changes} == {
        "/srv/conf/server.xml": ("changed", ["size", "content"]),
        "/srv/webapps": ("removed", []),
        "/srv/webapps.dist": ("removed", []),
    }  # fmt: skip
    assert "~ /srv/conf/server.xml" in await cli.text("diff", f"{APP}:1", f"{APP}:2")


async def test_platforms_and_what_refers_to_an_image_are_told(
    hub: Registry, tools: Containers, cli: Cli, tmp_path: Path
) -> None:
    members = [image(files({"a": b"1" * 9}), architecture=name) for name in ("amd64", "arm64")]
    pushed = await hub.push(index(*members), "org/app", "1")
    name = f"sha256-{pushed.digest.removeprefix('sha256:')}.sig"
    signature = await hub.push(artifact(b"signed", subject=pushed), "org/app", name)
    await tools.skopeo("copy", "--override-arch", "arm64", f"docker://{APP}:1", f"dir:{tmp_path}/a")
    await tools.skopeo("copy", f"docker://{APP}:{name}", f"dir:{tmp_path}/b")
    seen = await cli.json("inspect", f"{APP}:1")
    assert [(it["platform"], it["is_here"]) for it in seen["manifests"][1:]] == [
        ("linux/amd64", False), ("linux/arm64", True),
    ]  # fmt: skip
    assert seen["platform"] == "linux/arm64"  # it is the one that is here
    assert [(it["digest"], it["kind"], it["is_here"]) for it in seen["referrers"]] == [
        (signature.digest, "signature", True)
    ]
    missing = await cli.text("inspect", f"{APP}:1", "--platform", "linux/amd64", status=1)
    assert "nothing is here: pull it" in missing
    assert "linux/s390x" in await cli.text(
        "inspect", f"{APP}:1", "--platform", "linux/s390x", status=1
    )
    none = await cli.text("inspect", f"{APP}:none", status=1)
    assert "nobody has asked for this tag yet" in none
    assert "Traceback" not in none


async def test_endpoints_are_compared_with_what_is_here(
    hub: Registry, tools: Containers, cli: Cli, app: Image, tmp_path: Path
) -> None:
    await hub.push(app, "org/app", "1")
    await tools.skopeo("copy", f"docker://{APP}:1", f"dir:{tmp_path}/a")
    (same,) = (await cli.json("compare", f"{APP}:1"))["endpoints"]
    assert (same["verdict"], same["has_manifest"], same["layers"]) == ("same", True, 3)
    assert same["pulls"] == 0
    moved = await hub.push(image(files({"new": b"1"})), "org/app", "1")
    text = await cli.text("compare", f"{APP}:1", status=1)
    assert "differs" in text
    assert moved.digest[:19] in text
    asked = [it for it in hub.asked() if it.startswith("GET") and "manifests" in it]
    await cli.text("compare", f"{APP}:1", "--pull", status=1)
    paid = [it for it in hub.asked() if it.startswith("GET") and "manifests" in it]
    assert len(paid) == len(asked) + 1
    await hub.process.stop()
    assert "unknown" in await cli.text("compare", f"{APP}:1", status=1)
