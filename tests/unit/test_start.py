"""What a mirror loads before it serves: each hundredth of a second of it is waited for."""

import sys

from tests.support.process import run

# What is for operators, for several mirrors, and for what is asked for seldom.
_LATER = (
    "asyncpg", "cryptography", "jinja2", "mirror.contents", "mirror.control.api",
    "mirror.control.page", "mirror.doctor", "mirror.joining", "mirror.operate",
    "mirror.operators", "mirror.shared", "obstore", "rich", "yaml",
)  # fmt: skip
_LOADED = f"""
import sys, mirror.cli, mirror.app
print(*(it for it in {_LATER!r} if it in sys.modules))
"""
_VERBS = """
import sys, mirror.cli
print(*(it for it in ("aiohttp.web", "mirror.app", "mirror.building") if it in sys.modules))
"""


async def test_what_no_pull_needs_is_not_loaded_before_clients_are_served() -> None:
    assert (await run(sys.executable, "-c", _LOADED)).stdout.split() == []


async def test_verbs_that_only_ask_a_running_mirror_load_nothing_that_serves() -> None:
    assert (await run(sys.executable, "-c", _VERBS)).stdout.split() == []
