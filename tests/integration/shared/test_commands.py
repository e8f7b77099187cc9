"""What operators ask of what several mirrors have in common, and what they are never shown."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.bucket import BUCKET, SECRET_KEY
from tests.support.fleet import Fleet
from tests.support.images import Image, image, random_layer
from tests.support.mirror import MirrorProcess
from tests.support.operators import command, pull
from tests.support.postgres import PASSWORD, Postgres, running_pgbouncer
from tests.support.process import children_of, until
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(2**16, seed=1404))
[LAYER] = APP.layers
QUOTED = PASSWORD.replace("/", "%2F").replace(" ", "%20")

pytestmark = pytest.mark.chaos


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "org/app", "1")


def database_file(mirror: MirrorProcess) -> Path:
    return mirror.store_root.parent / "database"


async def test_both_are_looked_at_and_told_of(
    start_fleet: StartFleet, upstream: ScriptedRegistry, app: Image
) -> None:
    fleet = await start_fleet(1)
    [mirror] = fleet.mirrors
    await pull(mirror.client, "org/app", app)
    status, printed, said = await command(mirror, "check", "--online")
    assert status == 0
    assert "shared.database_file: 127.0.0.1:" in said
    assert "answers: PostgreSQL" in said
    assert "shared.bucket: keeps and gives an object" in said
    assert "error" not in said
    assert "[shared]" in printed
    status, printed, _ = await command(mirror, "doctor", "--json")
    findings = [json.loads(line) for line in printed.splitlines()]
    told = {it["where"] for it in findings if it["level"] == "ok"}
    assert told >= {"shared.database_file", "shared.bucket"}
    status, printed, _ = await command(mirror, "shared", "status", "--json")
    found = json.loads(printed)
    assert (status, found["bucket_trouble"]) == (0, None)
    assert found["deployment"] == found["bucket_deployment"]
    assert [it["version"] for it in found["mirrors"]] == [found["mirrors"][0]["version"]]
    status, printed, _ = await command(mirror, "shared", "status")
    assert status == 0
    assert "1 tags" in printed
    status, printed, _ = await command(mirror, "shared", "init")
    assert (status, printed.split()[-1]) == (0, found["deployment"])


async def test_what_cannot_be_used_is_told_and_nothing_is_made_of_it(
    start_fleet: StartFleet, postgres: Postgres
) -> None:
    fleet = await start_fleet(1)
    [mirror] = fleet.mirrors
    empty = await postgres.create_database()
    await asyncio.to_thread(database_file(mirror).write_text, empty)
    status, _, said = await command(mirror, "check", "--online")
    assert status == 0
    assert "belongs to no deployment yet" in said
    assert (await command(mirror, "shared", "status"))[0] == 1
    await asyncio.to_thread(database_file(mirror).write_text, empty.replace("word", "wort"))
    status, _, said = await command(mirror, "check", "--online")
    assert status == 2
    assert "error: shared.database_file: the shared database is down: password authent" in said
    await asyncio.to_thread(database_file(mirror).write_text, "nonsense")
    for arguments in (["check"], ["check", "--online"]):
        status, _, said = await command(mirror, *arguments)
        assert status == 2
        assert "error: shared.database_file: holds no database's URL" in said


async def test_a_store_of_one_deployment_does_not_begin_with_the_database_of_another(
    start_fleet: StartFleet, postgres: Postgres
) -> None:
    fleet = await start_fleet(1)
    [mirror] = fleet.mirrors
    await mirror.process.stop()
    other = await postgres.create_database()
    await asyncio.to_thread(database_file(mirror).write_text, other)
    status, _, said = await command(mirror, "serve")
    assert status == 1
    assert "nobody's yet, and this mirror belongs to deployment" in said
    # Somebody else's bucket is refused, too.
    await asyncio.to_thread((mirror.store_root / "deployment-id").unlink)
    status, _, said = await command(mirror, "serve")
    assert status == 1
    assert "the bucket belongs to deployment" in said


async def test_a_bucket_that_is_not_there_is_told_of_by_all(start_fleet: StartFleet) -> None:
    fleet = await start_fleet(1)
    [mirror] = fleet.mirrors
    await mirror.process.stop()
    config = mirror.store_root.parent / "mirror.toml"
    text = await asyncio.to_thread(config.read_text)
    await asyncio.to_thread(config.write_text, text.replace(f"s3://{BUCKET}/", "s3://not-there/"))
    trouble = "there is no such bucket"
    status, _, said = await command(mirror, "check", "--online")
    assert status == 2
    assert f"error: shared.bucket: cannot be used: {trouble}" in said
    status, _, said = await command(mirror, "shared", "init")
    assert (status, said) == (1, f"mirror: the bucket cannot be used: {trouble}\n")
    _, printed, _ = await command(mirror, "shared", "status", "--json")
    assert json.loads(printed)["bucket_trouble"] == trouble
    await mirror.process.start()
    assert f"the mirror begins without the bucket: {trouble}" in mirror.process.log()
    assert "Traceback" not in mirror.process.log()


async def test_a_bucket_whose_server_nobody_names_is_told_of_by_all(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet(1)
    [mirror] = fleet.mirrors
    await mirror.process.stop()
    config = mirror.store_root.parent / "mirror.toml"
    text = await asyncio.to_thread(config.read_text)
    await asyncio.to_thread(config.write_text, text.replace(f"s3://{BUCKET}/", "az://container/"))
    trouble = "cannot be used: the environment names no storage account"
    for arguments, failed in ((["check"], 2), (["check", "--online"], 2), (["doctor"], 1)):
        status, printed, said = await command(mirror, *arguments)
        assert status == failed
        assert f"error: shared.bucket: {trouble}" in printed + said
    status, _, said = await command(mirror, "serve")
    assert status == 2
    assert said.startswith(f"shared.bucket: {trouble}")
    assert "Traceback" not in said
    for verb in ("init", "sweep"):
        status, _, said = await command(mirror, "shared", verb)
        assert (status, said.startswith(f"mirror: the bucket {trouble}")) == (1, True)


async def test_without_the_section_there_is_nothing_to_tell(
    start_fleet: StartFleet, tmp_path: Path
) -> None:
    [mirror] = (await start_fleet(1)).mirrors
    config = mirror.store_root.parent / "mirror.toml"
    text = await asyncio.to_thread(config.read_text)
    await asyncio.to_thread(config.write_text, text.partition("[shared]")[0])
    status, _, said = await command(mirror, "shared", "status")
    assert (status, said) == (
        1, "mirror: the configuration has no [shared]: this mirror is by itself\n"
    )  # fmt: skip


async def test_credentials_are_shown_nowhere(
    start_fleet: StartFleet, upstream: ScriptedRegistry, app: Image
) -> None:
    fleet = await start_fleet(1, log={"level": "debug"})
    [mirror] = fleet.mirrors
    await pull(mirror.client, "org/app", app)
    for line in (fleet.lines[0].database, fleet.lines[0].bucket):
        await line.stop()
    await mirror.until_metric("mirror_shared_database_up", 0)
    await pull(mirror.client, "org/app", app)
    shown = [mirror.process.log()]
    for arguments in (["check", "--online"], ["doctor"], ["shared", "status"], ["shared", "init"]):
        _, printed, said = await command(mirror, *arguments)
        shown += [printed, said]
    for pid in {mirror.process.pid, *children_of(mirror.process)}:
        for name in ("cmdline", "comm", "environ"):
            shown.append(await asyncio.to_thread(Path(f"/proc/{pid}/{name}").read_text))
    for secret in (PASSWORD, QUOTED, SECRET_KEY):
        assert secret not in "".join(shown)


async def test_behind_pgbouncer_all_is_known_to_all_within_a_second(
    start_fleet: StartFleet,
    upstream: ScriptedRegistry,
    postgres: Postgres,
    tmp_path: Path,
    app: Image,
) -> None:
    fleet: Fleet = await start_fleet(2, tags={"missing_for": "1h"})
    async with running_pgbouncer(tmp_path, postgres) as port:
        for mirror in fleet.mirrors:
            await mirror.process.stop()
            name = fleet.url.rpartition("/")[2]
            await asyncio.to_thread(database_file(mirror).write_text, postgres.url(name, port=port))
            await mirror.process.start()
            await mirror.until_metric("mirror_shared_database_up", 1)
            assert await mirror.metric("mirror_shared_database_hears") == 0
        first, second = fleet.mirrors
        assert (await second.client.manifest("org/other", "1")).status == 404
        upstream.add(APP, "org/other", "1")
        await pull(first.client, "org/other", app)
        await first.until_metric("mirror_shared_untold", 0)

        async def is_known() -> bool:
            return (await second.client.manifest("org/other", "1")).status == 200

        async with asyncio.timeout(2):
            while not await is_known():
                pass
        sent = upstream.bytes_sent(LAYER)
        assert (await second.client.blob("org/other", LAYER)).digest == LAYER
        assert upstream.bytes_sent(LAYER) == sent


async def test_orphans_are_swept_by_command_and_what_is_in_use_stays(
    start_fleet: StartFleet, upstream: ScriptedRegistry, app: Image
) -> None:
    fleet = await start_fleet(1)
    [mirror] = fleet.mirrors
    await pull(mirror.client, "org/app", app)

    async def is_published() -> bool:
        return await fleet.is_proved(LAYER)

    await until(is_published)
    before = await fleet.keys()
    status, printed, _ = await command(mirror, "shared", "sweep", "--json")
    assert status == 0
    assert json.loads(printed)["removed"] == 0  # nothing is older than a day
    status, printed, _ = await command(mirror, "shared", "sweep")
    assert (status, "removed: 0" in printed) == (0, True)
    assert await fleet.keys() == before
