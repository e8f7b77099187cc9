"""`mirror status` as a command, against a running mirror."""

import json
import sys
from pathlib import Path

from tests.support.images import image, index, random_layer
from tests.support.mirror import running_mirror, upstream_at
from tests.support.process import CHILD_ENVIRONMENT, run
from tests.support.upstream import ScriptedRegistry

_ALSO_TOO_LARGE = """
[checks.negative_data_rejection]
expected-statuses = [
  "400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"
]
"""


async def test_the_api_is_as_it_is_described(upstream: ScriptedRegistry, tmp_path: Path) -> None:
    """By schemathesis, which makes requests of the description, and of what it does not hold."""
    straight = {**CHILD_ENVIRONMENT, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    (tmp_path / "schemathesis.toml").write_text(_ALSO_TOO_LARGE, encoding="utf-8")
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        url = f"{mirror.admin_url}/api/v1/openapi.json"
        command = (
            "env",
            "-C",
            tmp_path,
            Path(sys.executable).with_name("st"),
            "run",
            url,
            "--max-examples",
            "20",
        )
        result = await run(*command, "--no-color", environment=straight, check=False, within=120)
    assert result.returncode == 0, result.stdout[-4000:]


async def test_status_finds_the_mirror_by_its_configuration(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app = upstream.add(image(random_layer(1000, seed=1)), "library/app", "1")
    token = tmp_path / "token"
    token.write_text("open sesame")
    command = (sys.executable, "-m", "mirror", "status", "--config", tmp_path / "mirror.toml")
    async with running_mirror(
        tmp_path, {"docker.io": upstream_at(upstream.url)}, admin={"token_file": str(token)}
    ) as mirror:
        assert (await mirror.client.blob("library/app", app.layers[0])).status == 200
        shown = await run(*command, "--once")
        told = json.loads((await run(*command, "--json")).stdout)
    assert "ok" in shown.stdout
    assert "1 requests" in shown.stdout
    assert upstream.host in shown.stdout
    assert told["store"]["blobs"] == 1
    gone = await run(*command, "--once", check=False)
    assert gone.returncode == 1
    assert gone.stderr.startswith("mirror: no mirror answers at 127.0.0.1:")
    assert "(Connection refused): is it running" in gone.stderr
    assert "Traceback" not in gone.stderr


async def test_who_only_asks_the_mirror_needs_no_passwords_at_registries(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    upstream.add(image(random_layer(1000, seed=1)), "library/app", "1")
    password = tmp_path / "password"
    password.write_text("secret")
    settings = upstream_at(upstream.url, username="joe", password_file=str(password))
    mirror = (sys.executable, "-m", "mirror")
    config = ("--config", tmp_path / "mirror.toml")
    asks: tuple[tuple[str, ...], ...] = (
        ("status", "--once"),
        ("ls",),
        ("pins",),
        ("why", "app:1"),
        ("pause", "docker.io"),
    )
    looks: tuple[tuple[str, ...], ...] = (("ls",), ("why", "app:1"), ("setup", "docker"))
    async with running_mirror(tmp_path, {"docker.io": settings}) as running:
        assert (await running.client.manifest("library/app", "1")).status == 200
        password.unlink()  # or it is for the mirror's user alone
        for verb in asks:
            await run(*mirror, *verb, *config)
    for verb in looks:
        await run(*mirror, *verb, *config)
    for needs in ("check", "doctor", "serve"):
        refused = await run(*mirror, needs, *config, check=False)
        assert refused.returncode == 2
        assert "password_file: cannot be read: No such file or directory" in refused.stderr


async def test_what_a_platform_lacks_stands_in_a_line_of_its_own(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    upstream.add(index(image(random_layer(1000, seed=1))), "library/app", "1")
    wanted = ("inspect", "app:1", "--platform", "linux/s390x", "--config", tmp_path / "mirror.toml")
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        assert (await mirror.client.manifest("library/app", "1")).status == 200
        shown = await run(sys.executable, "-m", "mirror", *wanted, check=False)
    assert shown.returncode == 1
    assert "\n\nmirror: " in shown.stdout


async def test_why_and_top_tell_of_a_mirror_that_runs_and_of_one_that_does_not(
    upstream: ScriptedRegistry, tmp_path: Path
) -> None:
    app = upstream.add(image(random_layer(2**20, seed=1)), "library/app", "1")
    command = (sys.executable, "-m", "mirror")
    config = ("--config", tmp_path / "mirror.toml")
    async with running_mirror(tmp_path, {"docker.io": upstream_at(upstream.url)}) as mirror:
        assert (await mirror.client.manifest("library/app", "1")).status == 200
        assert (await mirror.client.blob("library/app", app.layers[0])).status == 200
        running = [await run(*command, "why", name, *config) for name in ("app:1", app.digest)]
        came = await run(*command, "why", app.layers[0], *config)
        top = await run(*command, "top", "--since", "1h", *config)
        told = json.loads((await run(*command, "why", "app", "--json", *config)).stdout)
        other = await run(*command, "why", "other", *config)
        wrong = await run(*command, "top", "--since", "soon", *config, check=False)
    for shown in running:
        assert "docker.io/library/app:1  miss" in shown.stdout
        assert "it was pulled here for the first time" in shown.stdout
        assert f"fetched from {upstream.host}" in shown.stdout
    assert "1.0 MiB" in came.stdout
    assert upstream.host in came.stdout
    assert "docker.io/library/app" in top.stdout
    assert [it["why"] for it in told["pulls"]] == ["never-seen"]
    assert "no pull of it is remembered" in other.stdout
    assert (wrong.returncode, "not a duration" in wrong.stderr) == (1, True)
    stopped = await run(*command, "why", "app:1", *config)
    assert stopped.stdout == running[0].stdout
    assert "docker.io/library/app" in (await run(*command, "top", *config)).stdout
    history = mirror.store_root / "history.sqlite3"
    history.write_bytes(b"\xff" * 8192)
    damaged = await run(*command, "why", "app:1", *config, check=False)
    assert (damaged.returncode, "not a database" in damaged.stderr) == (1, True)
    assert history.read_bytes() == b"\xff" * 8192  # a mirror that does not answer may be at it
