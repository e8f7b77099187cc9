"""`admin.htpasswd_file`: operators with names and passwords, and commands without."""

import base64
from pathlib import Path

import bcrypt
import pytest

from mirror.config import ConfigError
from tests.conftest import StartMirror
from tests.support.client import get
from tests.support.mirror import InnerMirror, running_mirror, upstream_at
from tests.support.operators import command
from tests.support.upstream import ScriptedRegistry


def line(name: str, password: str) -> str:
    return f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"


def write(file: Path, content: str) -> None:
    file.write_text(content)


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


async def status(mirror: InnerMirror, headers: dict[str, str], path: str = "/api/v1/status") -> int:
    return (await get(f"{mirror.admin_url}{path}", headers=headers)).status


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "operators"
    file.write_text(line("anna", "open-sesame"))
    return file


async def test_who_knows_a_name_and_its_password_is_an_operator(
    start_mirror: StartMirror, file: Path
) -> None:
    mirror = await start_mirror(admin={"htpasswd_file": str(file)})
    for path in ("/api/v1/status", "/", "/page/images"):
        assert await status(mirror, basic("anna", "open-sesame"), path) == 200
        assert await status(mirror, basic("anna", "wrong"), path) == 401
        assert await status(mirror, basic("bert", "open-sesame"), path) == 401
        assert await status(mirror, {}, path) == 401
    assert await status(mirror, {}, "/metrics") == 200


async def test_a_token_and_passwords_may_both_be(
    start_mirror: StartMirror, file: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("let-me-in")
    mirror = await start_mirror(admin={"htpasswd_file": str(file), "token_file": str(token)})
    assert await status(mirror, {"Authorization": "Bearer let-me-in"}) == 200
    assert await status(mirror, basic("anybody", "let-me-in")) == 200
    assert await status(mirror, basic("anna", "open-sesame")) == 200
    assert await status(mirror, {"Authorization": "Bearer open-sesame"}) == 401


async def test_an_operator_that_is_no_longer_in_the_file_is_none(
    start_mirror: StartMirror, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = await start_mirror(admin={"htpasswd_file": str(file)})
    assert await status(mirror, basic("anna", "open-sesame")) == 200
    write(file, "no sense at all\n")
    assert await status(mirror, basic("anna", "open-sesame")) == 200
    assert "line 1: not name:bcrypt-hash" in caplog.text
    write(file, line("bert", "other"))
    assert await status(mirror, basic("anna", "open-sesame")) == 401
    assert await status(mirror, basic("bert", "other")) == 200


async def test_who_guesses_operators_passwords_has_to_wait(
    start_mirror: StartMirror, file: Path
) -> None:
    mirror = await start_mirror(admin={"htpasswd_file": str(file)})
    told = [await status(mirror, basic("anna", f"guess {number}")) for number in range(25)]
    assert (told[0], told[-1]) == (401, 429)


async def test_a_file_that_makes_no_sense_is_told_at_the_start(
    start_mirror: StartMirror, file: Path
) -> None:
    write(file, "anna:plain\n")
    with pytest.raises(ConfigError, match="line 1: not name:bcrypt-hash"):
        await start_mirror(admin={"htpasswd_file": str(file)})


async def test_commands_of_whoever_may_read_the_store_need_no_password(
    upstream: ScriptedRegistry, tmp_path: Path, file: Path
) -> None:
    async with running_mirror(
        tmp_path, {"docker.io": upstream_at(upstream.url)}, admin={"htpasswd_file": str(file)}
    ) as mirror:
        done, shown, _ = await command(mirror, "status", "--once")
        assert (done, "docker.io" in shown) == (0, True)
        (mirror.store_root / "operator-key").unlink()
        done, _, complaint = await command(mirror, "status", "--once")
        assert done == 1
        assert "no mirror has run there yet" in complaint
