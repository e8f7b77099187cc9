"""What a person reads on a terminal."""

import json

import pytest
import typer
from rich.text import Text

from mirror.cli.verbs import fail
from mirror.contents.models import Diff
from mirror.operate.printing import say, say_json, say_table


def test_what_stands_in_a_layer_is_no_command_to_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("/etc/\x1b[2Jgone\u202egnp.exe")
    say_table(("path",), [("[red]a\rb[/red]",), (Text("c"),)])
    shown = capsys.readouterr().out
    assert shown.splitlines() == [
        "/etc/\\x1b[2Jgone\\u202egnp.exe",
        "path",
        "[red]a\\rb[/red]",
        "c",
    ]


def test_no_line_is_broken_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a" * 500
    say_table(("name", "size"), [(name, "1 B"), ("b", "20 B")], right="size")
    assert capsys.readouterr().out.splitlines() == [
        f"name{' ' * 496}  size", f"{name}   1 B", f"b{' ' * 499}  20 B",
    ]  # fmt: skip


ODD = "a\x1b[31m\x7f\x9b2J\u202e\U000e0001"


def test_what_is_told_as_json_is_no_command_either(capsys: pytest.CaptureFixture[str]) -> None:
    say_json(Diff(name=ODD, other="é", shared_layers=0, changes=[], unread=[], after=None))
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines())
    assert (json.loads(shown)["name"], "é" in shown) == (ODD, True)


def test_nor_is_why_a_command_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail(f"there is no linux/amd64 in it; there are: {ODD}\nand more", 1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
