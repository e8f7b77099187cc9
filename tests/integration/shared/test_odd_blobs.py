"""Blobs that are not as most are: empty, and with digests of another algorithm."""

import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.images import random_bytes
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.mark.parametrize(("algorithm", "size"), [("sha256", 0), ("sha512", 600_000)])
async def test_odd_blobs_are_fetched_once_for_all(
    upstream: ScriptedRegistry, start_fleet: StartFleet, algorithm: str, size: int
) -> None:
    content = random_bytes(size, seed=1413)
    digest = upstream.add_blob(content, "org/app", algorithm)
    fleet = await start_fleet(2)
    first, second = fleet.mirrors
    answer = await first.client.blob("org/app", digest)
    assert (answer.status, answer.body) == (200, content)

    async def is_proved() -> bool:
        return await fleet.is_proved(digest)

    await until(is_proved)
    answer = await second.client.blob("org/app", digest)
    assert (answer.status, answer.body) == (200, content)
    asked = [it for it in upstream.asked("blob") if it.method == "GET"]
    assert len(asked) == 1
