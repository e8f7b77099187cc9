"""SECURITY.md names the tests that show what it says; they exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_threat_in_security_md_is_shown_by_tests_that_there_are() -> None:
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Threats")[2]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows
    tests = {
        name.replace("_", " ")
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def test_(\w+)", file.read_text(encoding="utf-8"))
    }
    for what, _, _, shown in rows:
        named = re.findall(r"\*([^*]+)\*", shown)
        assert named, what
        assert not {*named} - tests, what
