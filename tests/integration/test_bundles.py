"""`mirror export` and `mirror import`: by mirrors that run, and on stores where none does."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import read
from tests.support.client import Client
from tests.support.images import Image, image, random_layer
from tests.support.mirror import MirrorProcess, running_mirror, upstream_at
from tests.support.process import Process, run, until
from tests.support.upstream import ScriptedRegistry

SIZE = 700_000  # more than is answered from memory
APP = "docker.io/library/app:1"
SEALED = {"docker.io": {"sealed": True}, "ghcr.io": {"sealed": True}}


async def mirror(directory: Path, verb: str, *arguments: str | Path) -> tuple[int, str, str]:
    config = directory / "mirror.toml"
    ended = await run(
        sys.executable, "-m", "mirror", verb, "--config", config, *arguments, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


async def steps(directory: Path, verb: str, *arguments: str | Path) -> list[dict[str, Any]]:
    _, said, error = await mirror(directory, verb, "--json", *arguments)
    assert not error, error
    return [json.loads(line) for line in said.splitlines()]


async def pull(client: Client, name: str, reference: str, app: Image) -> None:
    assert (await client.manifest(name, reference)).digest == app.digest
    for digest in app.blobs:
        assert (await client.blob(name, digest)).digest == digest


@asynccontextmanager
async def online(tmp_path: Path, upstream: ScriptedRegistry) -> AsyncIterator[MirrorProcess]:
    """A mirror that has been pulled through."""
    upstreams = {"docker.io": upstream_at(upstream.url), "ghcr.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path / "online", upstreams) as running:
        yield running


@asynccontextmanager
async def offline(
    tmp_path: Path, upstreams: Mapping[str, Any] = SEALED, **settings: Any
) -> AsyncIterator[MirrorProcess]:
    """A mirror that has no upstream; it stops with the block."""
    async with running_mirror(tmp_path / "offline", upstreams, **settings) as running:
        yield running


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "library/app", "1")


@pytest.mark.parametrize("is_running", [True, False])
async def test_what_one_mirror_has_exported_another_one_serves_without_any_upstream(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image, *, is_running: bool
) -> None:
    bundle = tmp_path / "bundle.tar"
    async with online(tmp_path, upstream) as first:
        await pull(first.client, "app", "1", app)
        await first.until_metric("mirror_store_blobs", 3)
        if not is_running:
            await first.process.stop()
        status, said, error = await mirror(tmp_path / "online", "export", "app:1", "-o", bundle)
        assert (status, error) == (0, "")
        assert said.splitlines()[0] == APP
        assert bundle.stat().st_mode & 0o077 == 0
    names = {f"blobs/sha256/{digest[7:]}" for digest in (app.digest, *app.blobs)}
    assert read(bundle).keys() == {"oci-layout", "index.json", "manifest.json"} | names
    async with offline(tmp_path) as second:
        if not is_running:
            await second.process.stop()
        status, said, error = await mirror(tmp_path / "offline", "import", bundle)
        assert (status, error) == (0, "")
        assert said.splitlines()[0] == APP
        if not is_running:
            await second.process.start()
        await pull(second.client, "app", "1", app)
        listed = await second.client.get("/v2/library/app/tags/list")
        assert json.loads(listed.body)["tags"] == ["1"]
        _, said, _ = await mirror(tmp_path / "offline", "inspect", "app:1")
        assert ("imported, by a bundle of" in said, "confirmed" in said) == (True, False)
        done = (await steps(tmp_path / "offline", "import", bundle))[-1]
        assert done == {"step": "done", "images": 1, "written": 0, "bytes": 0, "left_out": 3}


async def test_what_is_not_here_is_named_and_no_bundle_is_written(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    bundle = tmp_path / "bundle.tar"
    bundle.write_bytes(b"as it was")
    [layer] = app.layers
    settings = {"fill": {"prefetch": "off"}}
    upstreams = {"docker.io": upstream_at(upstream.url)}
    async with running_mirror(tmp_path / "online", upstreams, **settings) as first:
        assert (await first.client.manifest("app", "1")).digest == app.digest
        assert (await first.client.blob("app", app.config)).digest == app.config
        status, said, error = await mirror(
            tmp_path / "online", "export", "app:1", "nothing", "-o", bundle
        )
        assert (status, error) == (1, "")
        assert said.splitlines() == [
            f"{APP}: not exported; it lacks", f"  {layer}",
            "docker.io/library/nothing:latest: not exported; it lacks",
            "  its tag, which is not known here",
        ]  # fmt: skip
        asked = ("export", "quay.io/org/app:1", "-o", bundle)
        status, said, error = await mirror(tmp_path / "online", *asked)
        assert (status, 'there is no [upstream."quay.io"] here' in error) == (1, True)
    assert bundle.read_bytes() == b"as it was"
    assert set(await asyncio.to_thread(os.listdir, tmp_path)) == {"bundle.tar", "online"}


async def test_a_bundle_leaves_out_what_another_one_has_and_says_what_it_lacks_without_that(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    base = random_layer(SIZE, seed=1)
    newer = upstream.add(image(base, random_layer(SIZE, seed=2)), "library/app", "2")
    [shared, own] = newer.layers
    whole, delta, later = (tmp_path / f"{name}.tar" for name in ("whole", "delta", "later"))
    here, there = tmp_path / "online", tmp_path / "offline"
    async with online(tmp_path, upstream) as first:
        await pull(first.client, "app", "1", app)
        await pull(first.client, "app", "2", newer)
        await first.until_metric("mirror_store_blobs", 6)
        await mirror(here, "export", "app:1", "-o", whole)
        [*_, done] = await steps(here, "export", "app:2", "--base", whole, "-o", delta)
        assert (done["written"], done["left_out"]) == (3, 1)
        [*_, done] = await steps(here, "export", "app:2", "--since", "2999-01-01", "-o", later)
        assert (done["written"], done["left_out"]) == (1, 3)
    assert not {f"blobs/sha256/{shared[7:]}"} & read(delta).keys()
    assert json.loads(read(delta)["manifest.json"]) == []
    async with offline(tmp_path) as second:
        for bundle, missing in ((later, {newer.config, shared, own}), (delta, {shared})):
            status, said, error = await mirror(there, "import", bundle)
            assert (status, error) == (1, "")
            first_line, *lacking, _ = said.splitlines()
            assert first_line.startswith("docker.io/library/app:2: cannot be served")
            assert set(map(str.strip, lacking)) == missing
            assert (await second.client.manifest("app", "2")).status == 404
        assert (await mirror(there, "import", whole))[0] == 0
        [*_, done] = await steps(there, "import", delta)
        assert (done["written"], done["images"]) == (0, 1)
        await pull(second.client, "app", "2", newer)
        await pull(second.client, "app", "1", app)


async def test_a_bundle_goes_through_a_pipe_and_steps_go_beside_it(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    async with online(tmp_path, upstream) as first:
        await pull(first.client, "app", "1", app)
        await first.until_metric("mirror_store_blobs", 3)
        bundle, told = tmp_path / "bundle.tar", tmp_path / "steps"
        script = f"{sys.executable} -m mirror export --config {tmp_path}/online/mirror.toml"
        await run("sh", "-c", f"{script} app:1 --json -o - > {bundle} 2> {told}")
    assert read(bundle).keys() >= {"oci-layout", "index.json"}
    assert json.loads(told.read_text().splitlines()[-1])["written"] == 3


async def test_a_bundle_is_written_into_what_is_no_file_and_where_a_link_leads(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image
) -> None:
    fifo, link, target = tmp_path / "fifo", tmp_path / "link.tar", tmp_path / "target.tar"
    os.mkfifo(fifo)
    link.symlink_to(target)
    script = f"{sys.executable} -m mirror export --config {tmp_path}/online/mirror.toml"
    async with online(tmp_path, upstream) as first:
        await pull(first.client, "app", "1", app)
        await first.until_metric("mirror_store_blobs", 3)
        await run("sh", "-c", f"{script} app:1 -o /dev/fd/3 3>&1 >&2 | cat > {tmp_path}/piped.tar")
        copy = f"timeout 30 cat {fifo} > {tmp_path}/read.tar"
        async with asyncio.TaskGroup() as tasks:
            _ = tasks.create_task(run("sh", "-c", copy))
            assert (await mirror(tmp_path / "online", "export", "app:1", "-o", fifo))[0] == 0
        assert (await mirror(tmp_path / "online", "export", "app:1", "-o", link))[0] == 0
        for nowhere in (tmp_path / "nothing/x.tar", tmp_path):
            status, _, error = await mirror(tmp_path / "online", "export", "app:1", "-o", nowhere)
            assert (status, ".part" in error) == (1, False)
            assert f"{nowhere.parent}: is no directory" in error or "Is a directory" in error
    assert read(tmp_path / "read.tar").keys() == read(target).keys()
    assert read(tmp_path / "piped.tar").keys() == read(target).keys()
    assert fifo.is_fifo()
    assert link.is_symlink()


@pytest.mark.parametrize("remedy", ["import", "backup"])
async def test_where_records_are_damaged_what_was_imported_is_there_by_a_bundle_or_a_backup(
    upstream: ScriptedRegistry, tmp_path: Path, app: Image, remedy: str
) -> None:
    """Nobody can be asked which repository may have what is still on disk; the log says so."""
    bundle, backup = tmp_path / "bundle.tar", tmp_path / "backup"
    async with online(tmp_path, upstream) as first:
        await pull(first.client, "app", "1", app)
        await first.until_metric("mirror_store_blobs", 3)
        assert (await mirror(tmp_path / "online", "export", "app:1", "-o", bundle))[0] == 0
    async with offline(tmp_path) as second:
        assert (await mirror(tmp_path / "offline", "import", bundle))[0] == 0
        await second.process.stop()
        records = second.store_root / "records.sqlite3"
        shutil.copy2(records, backup)
        records.write_bytes(b"\xff" * 8192)
        await second.process.start()
        assert (await second.client.manifest("app", "1")).status == 404
        assert "has to be imported again" in second.process.log()
        if remedy == "import":
            done = (await steps(tmp_path / "offline", "import", bundle))[-1]
            assert (done["images"], done["written"]) == (1, 0)
        else:
            await second.process.stop()
            shutil.copy2(backup, records)
            await second.process.start()
        await pull(second.client, "app", "1", app)


@pytest.mark.parametrize("victim", ["import", "mirror"])
async def test_an_import_that_is_killed_is_finished_by_another_and_writes_nothing_twice(
    upstream: ScriptedRegistry, tmp_path: Path, victim: str
) -> None:
    layers = [random_layer(2_000_000, seed=seed) for seed in range(40)]
    app = upstream.add(image(*layers), "library/app", "1")
    bundle = tmp_path / "bundle.tar"
    async with online(tmp_path, upstream) as first:
        await pull(first.client, "app", "1", app)
        await first.until_metric("mirror_store_blobs", 42)
        assert (await mirror(tmp_path / "online", "export", "app:1", "-o", bundle))[0] == 0
    async with offline(tmp_path) as second:
        config = tmp_path / "offline" / "mirror.toml"

        async def has_begun() -> bool:
            return await second.metric("mirror_store_blobs") >= 3

        importing = Process(
            (sys.executable, "-m", "mirror", "import", "--config", config, bundle),
            log=tmp_path / "import.log",
            ready=has_begun,
        )
        async with importing:
            await (importing if victim == "import" else second.process).kill()
        if victim == "mirror":
            await second.process.start()
        await until(lambda: _is_quiet(second))
        kept = {path.name: path.stat().st_ino for path in second.store_root.glob("blobs/*/*/*")}
        assert 3 <= len(kept) < 42
        [*_, done] = await steps(tmp_path / "offline", "import", bundle)
        assert (done["left_out"], done["written"]) == (len(kept), 42 - len(kept))
        after = {path.name: path.stat().st_ino for path in second.store_root.glob("blobs/*/*/*")}
        assert kept.items() <= after.items()
        await pull(second.client, "app", "1", app)


async def _is_quiet(running: MirrorProcess) -> bool:
    """Whether the last blob that was on its way has come to rest."""
    before = await running.metric("mirror_store_blobs")
    return before == await running.metric("mirror_store_blobs")


async def test_a_bundle_with_a_layer_that_is_larger_than_the_store_is_refused_with_the_setting(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app = upstream.add(image(random_layer(30_000_000, seed=5)), "library/app", "1")
    small = upstream.add(image(random_layer(SIZE, seed=6)), "library/small", "1")
    bundle = tmp_path / "bundle.tar"
    async with online(tmp_path, upstream) as first:
        await pull(first.client, "app", "1", app)
        await pull(first.client, "small", "1", small)
        await first.until_metric("mirror_store_blobs", 6)
        names = ("app:1", "small:1")
        assert (await mirror(tmp_path / "online", "export", *names, "-o", bundle))[0] == 0
    async with offline(tmp_path, store={"max_size": "20 MB"}) as second:
        for is_running in (True, False):
            if not is_running:
                await second.process.stop()
            status, said, error = await mirror(tmp_path / "offline", "import", bundle)
            refused, taken, _ = said.splitlines()
            assert (status, taken, error) == (1, "docker.io/library/small:1", "")
            assert refused.startswith(f"{APP}: not imported: larger than all that store.max_size")
