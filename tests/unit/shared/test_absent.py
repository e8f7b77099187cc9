"""Without `[shared]`, nothing of it is loaded."""

import sys

from tests.support.process import run

_LOADED = """
import sys, mirror.app, mirror.cli, mirror.doctor.examine, mirror.operate.keeping
print(*sorted(it for it in sys.modules if it.split(".")[0] in {"asyncpg", "obstore"}
  or it.startswith(("mirror.shared", "mirror.joining", "mirror.records.postgres"))))
"""


async def test_a_mirror_by_itself_loads_nothing_of_what_several_need() -> None:
    assert (await run(sys.executable, "-c", _LOADED)).stdout.split() == []
