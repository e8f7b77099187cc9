"""The command line as a whole: what it prints where no mirror is asked."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest
import typer

from mirror import __version__
from mirror.cli import cli
from mirror.front.api.passwords import read_htpasswd
from tests.support.process import CHILD_ENVIRONMENT
from tests.support.require import require

HEAVY = ("aiohttp", "pydantic", "typer", "uvloop", "rich")


def mirror(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own program
        (sys.executable, "-m", "mirror", *arguments),
        input=given, capture_output=True, text=True, check=False, env=CHILD_ENVIRONMENT,
    )  # fmt: skip


_WORK = """
import asyncio
from mirror.cli.verbs import look_after
async def work():
    try:
        print("begun", flush=True)
        await asyncio.sleep(600)
    finally:
        await asyncio.sleep(0)
        print("put in order", flush=True)
import typer
cli = typer.Typer()
@cli.command()
def go(): look_after(work())
cli()
"""


@pytest.mark.parametrize(("told", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_told_to_stop_puts_things_in_order_first(
    told: signal.Signals, status: int
) -> None:
    with subprocess.Popen(  # noqa: S603 - our own program
        (sys.executable, "-c", _WORK), stdout=subprocess.PIPE, text=True, env=CHILD_ENVIRONMENT
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "begun\n"
        command.send_signal(told)
        assert command.stdout.read() == "put in order\n"
    assert command.returncode == status


@pytest.mark.parametrize("how", ["--version", "version"])
def test_the_version_is_told_without_waiting_for_anything(how: str) -> None:
    code = (
        f"import sys; sys.argv = ['mirror', {how!r}]; from mirror.__main__ import main; main();"
        f" print(*(it for it in {HEAVY!r} if it in sys.modules))"
    )
    told = subprocess.run(  # noqa: S603 - our own program
        (sys.executable, "-c", code), capture_output=True, text=True, check=True
    )
    assert told.stdout == f"{__version__}\n\n"


def test_a_password_line_is_one_that_the_mirror_reads(tmp_path: Path) -> None:
    made = mirror("password", "anna", given="secret\n")
    assert (made.returncode, made.stderr) == (0, "")
    file = tmp_path / "htpasswd"
    file.write_text(made.stdout)
    assert bcrypt.checkpw(b"secret", read_htpasswd(file)["anna"])


@pytest.mark.parametrize(("name", "secret"), [("a:b", "x"), ("anna", ""), ("anna", "x" * 73)])
def test_what_is_no_name_or_password_is_refused(name: str, secret: str) -> None:
    made = mirror("password", name, given=f"{secret}\n")
    assert (made.returncode, made.stdout) == (1, "")
    assert made.stderr.startswith("mirror: a ")


def test_bash_completes_verbs_and_options() -> None:
    require("bash")
    script = mirror("completion", "bash").stdout

    def completed(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in words)
        asks = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _mirror; echo ${{COMPREPLY[@]}}"
        told = subprocess.run(  # noqa: S603
            ("bash", "-c", f"{script}\n{asks}"),  # noqa: S607
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return set(told.stdout.split())

    assert completed("mirror", "s") == {"serve", "setup", "shared", "status"}
    assert completed("mirror", "--") == {"--help", "--version"}
    assert completed("mirror", "status", "--") == {"--config", "--once", "--json", "--help"}
    assert completed("mirror", "shared", "s") == {"status", "sweep"}
    assert completed("mirror", "shared", "status", "--") == {"--config", "--json", "--help"}
    assert completed("mirror", "check", "--config", "/etc/passw") >= {"/etc/passwd"}


def test_each_verb_can_say_it_as_json() -> None:
    verbs = dict(typer.main.get_group(cli).commands)
    verbs |= getattr(verbs.pop("shared"), "commands", {})
    can = {name for name, it in verbs.items() if any("--json" in one.opts for one in it.params)}
    # The log of the one has `log.format`; what the other prints is for a shell.
    assert verbs.keys() - can == {"serve", "completion"}


def test_what_is_checked_is_told_as_json_with_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    file = tmp_path / "mirror.toml"
    file.write_text(
        f'store.root = "{tmp_path}/store"\nadmin.token_file = "{tmp_path}/empty"\n'
        'log.level = "debug"\n'
    )
    checked = mirror("check", "--config", str(file), "--json")
    told = json.loads(checked.stdout)
    assert checked.returncode == 2
    assert ("error", "admin.token_file") in {(it["level"], it["where"]) for it in told["findings"]}
    assert told["configuration"]["log"] == {"level": "debug", "format": "text"}


def test_versions_and_passwords_are_told_as_json() -> None:
    assert json.loads(mirror("version", "--json").stdout) == {"version": __version__}
    told = json.loads(mirror("password", "anna", "--json", given="secret\n").stdout)
    assert told["name"] == "anna"
    assert bcrypt.checkpw(b"secret", told["hash"].encode())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_the_same(shell: str) -> None:
    script = mirror("completion", shell).stdout
    assert "status" in script
    assert "json" in script


def test_another_shell_is_not_known() -> None:
    made = mirror("completion", "tcsh")
    assert made.returncode == 1
    assert "bash, zsh, fish" in made.stderr


def test_help_names_what_is_meant_brackets_too() -> None:
    assert "OS/ARCH" in mirror("pin", "--help").stdout
    for verb in ((), ("check",), ("shared",)):  # rich would take [shared] for markup
        assert "[shared]" in mirror(*verb, "--help").stdout


def test_a_file_that_is_not_there_is_named_in_words() -> None:
    for asked in (("setup", "docker", "--ca", "/nowhere"), ("warm", "--file", "/nowhere")):
        assert mirror(*asked).stderr == "mirror: /nowhere: No such file or directory\n"


# What a shell gives a command: `>&-`, a disk that is full, a reader that has seen enough.


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own program
        ("sh", "-c", f'mirror() {{ {sys.executable} -m mirror "$@"; }}\n{command}'),  # noqa: S607
        capture_output=True, text=True, check=False, env=CHILD_ENVIRONMENT,
    )  # fmt: skip


@pytest.mark.parametrize("verb", ["version", "setup docker", "doctor"])
def test_with_closed_streams_a_command_does_what_it_does(verb: str, tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text('[upstream."docker.io"]\nsealed = true\n')
    asked = f"export MIRROR_CONFIG={file}; mirror {verb}"
    usual = shell(asked)
    for closed in ("<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"):
        ended = shell(f"{asked} {closed}")
        assert (ended.returncode, ended.stderr) == (usual.returncode, ""), closed
        assert not ended.stdout if ">&-" in closed else ended.stdout == usual.stdout


@pytest.mark.parametrize("verb", ["version", "--help", "setup docker", "completion bash"])
def test_a_full_disk_below_the_output_is_said_in_a_line(verb: str) -> None:
    ended = shell(f"mirror {verb} > /dev/full")
    said = "mirror: what it says cannot be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, said)


def test_who_reads_a_part_of_it_ends_it_without_a_word() -> None:
    ended = shell("{ mirror completion bash; echo $? >&2; } | true")
    assert ended.stderr == "1\n"


def test_a_sign_that_the_terminal_has_not_is_written_as_its_number() -> None:
    ended = shell("COLUMNS=40 PYTHONIOENCODING=ascii mirror check --help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert r"\u2026" in ended.stdout  # an ellipsis, for what is too long
