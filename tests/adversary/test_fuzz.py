"""What reads what peers send raises nothing but what it says; `make fuzz` tries for minutes."""

import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
SECONDS = 3

# The most memory that a process has had counts what it was before it became another program: the
# fuzzer would be blamed for ours, but for a shell in between.
OF_ITS_OWN = ("sh", "-c", '"$@"; exit "$?"', "sh")


@pytest.mark.parametrize("target", [*TARGETS.values()], ids=[*TARGETS])
def test_whatever_is_made_of_an_honest_input_is_read_or_refused(target: Target) -> None:
    random = Random(1)  # noqa: S311 - repeatable on purpose
    for seed in target.seeds:
        target.read(seed)  # is taken as it is
        for _ in range(300):
            target(_changed(seed, random))


def test_a_fuzzer_finds_nothing_in_a_few_seconds(tmp_path: Path) -> None:
    found = subprocess.run(  # noqa: S603 - ourselves
        [*OF_ITS_OWN, sys.executable, "-m", "tests.fuzz", "--seconds", str(SECONDS)],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-4000:]
    tries = re.search(r"number_of_executed_units: (\d+)", found.stderr)
    assert tries is not None
    assert int(tries[1]) > 1_000


def _changed(seed: bytes, random: Random) -> bytes:
    changed = bytearray(seed)
    for _ in range(random.randint(1, 4)):
        start = random.randint(0, len(changed))
        stop = min(len(changed), start + random.choice((0, 1, 1, 8)))
        changed[start:stop] = random.choice(
            (b"", b'"', b"\\", b"\x00", b"\xff", b"\xf0\x9f\x98\x80", b"9" * 400, b"[" * 2000, b"%")
        )
    return bytes(changed)
