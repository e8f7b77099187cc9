"""Signatures, SBOMs and the like travel in bundles with what they refer to."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from mirror.operate.bundles.archive import Archive
from mirror.operate.bundles.exporting import LeftOut, export
from mirror.operate.bundles.importing import import_bundle
from mirror.operate.bundles.remote import RemoteDepot
from mirror.operate.bundles.steps import Accompanied, BundleStep, Exported, Meter
from tests.conftest import StartMirror
from tests.support.bundles import files_of, path_of, read, write
from tests.support.clock import FakeClock
from tests.support.images import OCI_INDEX, Image, artifact, digest_of, image, index, random_layer
from tests.support.mirror import InnerMirror, Settings, document, start_inner_mirror, upstream_at
from tests.support.operators import ask, names_of, pull
from tests.support.upstream import ScriptedRegistry
from tests.unit.storage.opening import on_disk

SEALED: dict[str, Settings] = {"docker.io": {"sealed": True, "default": True}}
APP = "docker.io/library/app"
SIGNATURE, SBOM = "application/vnd.example.signature", "application/spdx+json"

_T = TypeVar("_T")
StartOther = Callable[[dict[str, Settings]], Coroutine[Any, Any, InnerMirror]]


@pytest.fixture
async def start_other(tmp_path: Path, clock: FakeClock) -> AsyncIterator[StartOther]:
    """`mirror = await start_other(SEALED)`: the one at the other end, with a store of its own."""
    started: list[InnerMirror] = []

    async def start(upstreams: dict[str, Settings]) -> InnerMirror:
        settings = document(upstreams, store_root=tmp_path / "other")
        started.append(await start_inner_mirror(settings, clock))
        return started[-1]

    yield start
    for mirror in started:
        await mirror.stop()


@asynccontextmanager
async def depot_of(mirror: InnerMirror) -> AsyncIterator[RemoteDepot]:
    key = {"Mirror-Key": (mirror.store_root / "operator-key").read_text()}
    async with aiohttp.ClientSession(headers=key) as session:
        yield RemoteDepot(session, mirror.admin_host)


async def bundle_of(mirror: InnerMirror, path: Path, clock: FakeClock, *images: str) -> Exported:
    """Export images to a file; what is said of the first."""

    async def run() -> Exported:
        async with depot_of(mirror) as depot:
            with path.open("wb") as file:
                steps = [
                    step
                    async for step in export(
                        depot, images, [], left_out=LeftOut(), write=file.write, made_at=clock(),
                        meter=Meter(),
                    )
                ]  # fmt: skip
        return next(step for step in steps if isinstance(step, Exported))

    return await elsewhere(run)


async def take(mirror: InnerMirror, path: Path) -> list[BundleStep]:
    async def run() -> list[BundleStep]:
        async with depot_of(mirror) as depot:
            with Archive.open(path) as archive:
                return [step async for step in import_bundle(depot, archive, Meter())]

    return await elsewhere(run)


async def elsewhere(run: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """As a command does, which may wait for the disk: not in the mirror's loop."""
    return await asyncio.to_thread(lambda: asyncio.run(run()))


def companions(steps: list[BundleStep]) -> dict[str, str]:
    return {it.image: it.outcome for it in steps if isinstance(it, Accompanied)}


async def listed(mirror: InnerMirror, subject: Image, query: str = "") -> list[str]:
    answer = await mirror.client.get(f"/v2/library/app/referrers/{subject.digest}{query}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
    return [entry["digest"] for entry in json.loads(answer.body)["manifests"]]


def sign(upstream: ScriptedRegistry, content: bytes, subject: Image, kind: str) -> Image:
    made = artifact(content, subject=subject, artifact_type=kind)
    return upstream.add(made, "library/app")


async def fetch(mirror: InnerMirror, *images: Image) -> None:
    """As a client that verifies does."""
    for one in images:
        await pull(mirror.client, "app", one, one.digest)


async def until_here(mirror: InnerMirror, *images: Image) -> None:
    """These, and nothing else, are on record."""
    await mirror.until_metric("mirror_store_blobs", len(names_of(*images)))


async def test_what_refers_to_an_image_is_answered_by_a_mirror_that_asks_nobody(
    upstream: ScriptedRegistry, start_mirror: StartMirror, start_other: StartOther,
    tmp_path: Path, clock: FakeClock,
) -> None:  # fmt: skip
    amd, arm = (image(random_layer(900, seed=it), architecture=f"a{it}") for it in (1, 2))
    app = upstream.add(index(amd, arm), "library/app", "1")
    signature = sign(upstream, b"signed", app, SIGNATURE)
    sbom = sign(upstream, b"made of", amd, SBOM)
    of_sbom = sign(upstream, b"signed, too", sbom, SIGNATURE)
    tag = f"sha256-{arm.digest[7:]}.sig"
    by_tag = upstream.add(artifact(b"as cosign did", subject=arm), "library/app", tag)
    everything = (app, amd, arm, signature, sbom, of_sbom, by_tag)
    mirror = await start_mirror()
    await fetch(mirror, *everything)
    assert (await mirror.client.manifest("app", "1")).digest == app.digest
    assert (await mirror.client.manifest("app", tag)).digest == by_tag.digest
    lists = {it.digest: await listed(mirror, it) for it in (app, amd, sbom)}
    await until_here(mirror, *everything)
    bundle = tmp_path / "bundle.tar"
    told = await bundle_of(mirror, bundle, clock, "app:1")
    images = json.loads(read(bundle)["index.json"])["manifests"]  # readers find one, as without
    assert (told.referrers, told.absent, len(images)) == (4, [], 1)

    other = await start_other(SEALED)
    for _ in range(2):  # once more is no more
        assert set(companions(await take(other, bundle)).values()) == {"imported"}
    clock.advance(3 * 365 * 86400)
    await fetch(other, *everything)
    assert {it.digest: await listed(other, it) for it in (app, amd, sbom)} == lists
    assert lists[app.digest] == [signature.digest]
    assert await listed(other, amd, f"?artifactType={SBOM.replace('+', '%2B')}") == [sbom.digest]
    assert (await other.client.manifest("app", tag)).digest == by_tag.digest
    assert on_disk(other.store_root) == names_of(*everything)  # the lists are on record alone
    clock.advance(7200)
    assert (await ask(other, "/gc", {}))["blobs"] == 0


async def test_of_what_is_not_here_no_list_in_a_bundle_tells(
    upstream: ScriptedRegistry, start_mirror: StartMirror, start_other: StartOther,
    tmp_path: Path, clock: FakeClock,
) -> None:  # fmt: skip
    app = upstream.add(image(random_layer(900, seed=1)), "library/app", "1")
    here, gone = (sign(upstream, it, app, SIGNATURE) for it in (b"here", b"gone"))
    mirror = await start_mirror()
    await pull(mirror.client, "app", app)
    await fetch(mirror, here)
    assert set(await listed(mirror, app)) == {here.digest, gone.digest}
    await until_here(mirror, app, here)
    bundle = tmp_path / "bundle.tar"
    told = await bundle_of(mirror, bundle, clock, "app:1")
    assert (told.referrers, told.absent) == (1, [gone.digest])
    other = await start_other(SEALED)
    await take(other, bundle)
    assert await listed(other, app) == [here.digest]
    await fetch(mirror, gone)  # a later bundle brings the rest, and takes nothing away
    await until_here(mirror, app, here, gone)
    await ask(mirror, "/images/remove", {"image": f"{APP}@{here.digest}"})
    clock.advance(10)
    told = await bundle_of(mirror, bundle, clock, "app:1")
    assert told.absent == [here.digest]
    await take(other, bundle)
    assert set(await listed(other, app)) == {here.digest, gone.digest}


async def test_what_upstream_has_told_later_than_a_bundle_was_made_stays(
    upstream: ScriptedRegistry, start_mirror: StartMirror, start_other: StartOther,
    tmp_path: Path, clock: FakeClock,
) -> None:  # fmt: skip
    app = upstream.add(image(random_layer(900, seed=1)), "library/app", "1")
    first = sign(upstream, b"first", app, SIGNATURE)
    mirror = await start_mirror()
    await pull(mirror.client, "app", app)
    await fetch(mirror, first)
    assert await listed(mirror, app) == [first.digest]
    await until_here(mirror, app, first)
    bundle = tmp_path / "bundle.tar"
    await bundle_of(mirror, bundle, clock, "app:1")
    clock.advance(100)
    second = sign(upstream, b"second", app, SIGNATURE)
    other = await start_other({"docker.io": upstream_at(upstream.url)})
    assert set(await listed(other, app)) == {first.digest, second.digest}
    assert set(companions(await take(other, bundle)).values()) == {"newer"}
    assert set(await listed(other, app)) == {first.digest, second.digest}


async def test_an_imported_list_is_answered_however_old_while_upstream_cannot_be_asked(
    upstream: ScriptedRegistry, start_mirror: StartMirror, start_other: StartOther,
    tmp_path: Path, clock: FakeClock,
) -> None:  # fmt: skip
    app = upstream.add(image(random_layer(900, seed=1)), "library/app", "1")
    first = sign(upstream, b"first", app, SIGNATURE)
    mirror = await start_mirror()
    await pull(mirror.client, "app", app)
    await fetch(mirror, first)
    assert await listed(mirror, app) == [first.digest]
    await until_here(mirror, app, first)
    bundle = tmp_path / "bundle.tar"
    await bundle_of(mirror, bundle, clock, "app:1")
    other = await start_other({"docker.io": upstream_at(upstream.url)})
    await take(other, bundle)
    clock.advance(3 * 365 * 86400)
    upstream.fault(kind="referrers", status=503, times=1)
    assert await listed(other, app) == [first.digest]
    second = sign(upstream, b"second", app, SIGNATURE)
    clock.advance(3600)
    assert set(await listed(other, app)) == {first.digest, second.digest}
    clock.advance(3 * 365 * 86400)  # it is upstream's own word now
    upstream.fault(kind="referrers", status=503)
    answer = await other.client.get(f"/v2/library/app/referrers/{app.digest}")
    assert answer.status != 200


async def test_what_makes_no_sense_of_referrers_costs_the_image_nothing(
    start_other: StartOther, tmp_path: Path
) -> None:
    app = image(random_layer(900, seed=1))
    signature = artifact(b"signed", subject=app)
    other = await start_other(SEALED)

    def entry(content: bytes, name: str) -> dict[str, Any]:
        return {
            "mediaType": OCI_INDEX, "digest": digest_of(content), "size": len(content),
            "annotations": {"org.opencontainers.image.ref.name": name},
        }  # fmt: skip

    good = json.dumps({"schemaVersion": 2, "manifests": [signature.descriptor]}).encode()
    bad = json.dumps({"schemaVersion": 2, "manifests": [{"digest": 7}]}).encode()
    entries = [
        entry(bad, f"{APP}@{digest_of(b'bad')}"),
        entry(b"not there", f"{APP}@{digest_of(b'lost')}"),
        entry(good, "quay.io/org/app@" + digest_of(b"theirs")),
        entry(good, "app"),
        entry(good, f"{APP}@{app.digest}"),
    ]
    files = [
        *files_of({f"{APP}:1": app}),
        ("referrers.json", json.dumps({"manifests": entries}).encode()),
        (path_of(digest_of(bad)), bad),
        (path_of(digest_of(good)), good),
    ]
    without = await take(other, write(tmp_path / "without.tar", files))
    await pull(other.client, "app", app)
    assert companions(without)[f"{APP}@{app.digest}"] == "incomplete"
    assert await listed(other, app) == []
    whole = [*files, *((path_of(digest), it) for digest, it in signature.blobs.items())]
    whole.append((path_of(signature.digest), signature.manifest))
    outcomes = companions(await take(other, write(tmp_path / "whole.tar", whole)))
    assert outcomes.pop(f"{APP}@{app.digest}") == "imported"
    assert set(outcomes.values()) == {"refused"}
    assert len(outcomes) == len(entries) - 1
    assert await listed(other, app) == [signature.digest]
    await fetch(other, signature)
