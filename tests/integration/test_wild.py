"""What others met, each a scene of `tests.bench.wild`, with the mirror in the seat."""

from pathlib import Path

import pytest

from tests.bench.figures import MIRROR
from tests.bench.wild.kinds import Kind
from tests.bench.wild.seat import scene
from tests.bench.wild.table import ALL

LACKING: set[str] = set()

pytestmark = [pytest.mark.timeout(120)]


_NOT_YET = pytest.mark.xfail(strict=True, reason="not held yet: RESULTS.md says so, too")
_KINDS = [
    pytest.param(kind, id=kind.name, marks=_NOT_YET if kind.name in LACKING else ()) for kind in ALL
]


@pytest.mark.parametrize("kind", _KINDS)
async def test_a_client_gets_what_it_would_get_going_direct(kind: Kind, tmp_path: Path) -> None:
    async with scene(MIRROR, tmp_path) as stage:
        await kind.play(stage)
