"""What a person reads on a terminal."""

import pytest
from rich.text import Text

from mirror.operate.printing import say, say_table


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
