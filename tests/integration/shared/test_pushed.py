"""What is pushed by way of one mirror of a fleet is there for all of them, and asks nobody."""

import pytest

from tests.integration.shared.conftest import StartFleet
from tests.support.fleet import Fleet
from tests.support.images import image, index, random_layer
from tests.support.process import until
from tests.support.pusher import Pusher
from tests.support.pushing import NAME
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(3 * 2**20, seed=1515), random_layer(2**16, seed=1516))
NEXT = image(random_layer(2**16, seed=1517))

pytestmark = [pytest.mark.usefixtures("takes_pushes"), pytest.mark.chaos, pytest.mark.timeout(240)]


async def told(fleet: Fleet) -> None:
    """Return when every mirror has told all that it knows, and published all that it has."""
    for mirror in fleet.mirrors:
        await mirror.until_metric("mirror_shared_unpublished", 0)
        await mirror.until_metric("mirror_shared_untold", 0)


async def test_what_was_pushed_at_one_mirror_the_others_serve_without_asking_upstream(
    upstream: ScriptedRegistry, start_fleet: StartFleet
) -> None:
    fleet = await start_fleet(3, push="client")
    first, *others = fleet.mirrors
    await Pusher(first.client, NAME).image(index(APP, NEXT), "1")
    await told(fleet)
    asked = upstream.questions()
    for mirror in others:
        for wanted in (index(APP, NEXT), APP, NEXT):
            answer = await mirror.client.manifest(NAME, wanted.digest)
            assert answer.body == wanted.manifest
            for digest in wanted.blobs:
                assert (await mirror.client.blob(NAME, digest)).digest == digest
        assert (await mirror.client.manifest(NAME, "1")).digest == index(APP, NEXT).digest
    assert upstream.questions() == asked


async def test_a_tag_that_is_pushed_at_one_mirror_means_that_at_the_others(
    upstream: ScriptedRegistry, start_fleet: StartFleet
) -> None:
    fleet = await start_fleet(2, push="client", tags={"fresh_for": "1h"})
    first, second = fleet.mirrors
    await Pusher(first.client, NAME).image(APP, "1")
    await told(fleet)
    assert (await second.client.manifest(NAME, "1")).digest == APP.digest
    await Pusher(first.client, NAME).image(NEXT, "1")
    asked = upstream.questions()

    async def is_known() -> bool:
        return (await second.client.manifest(NAME, "1")).digest == NEXT.digest

    await until(is_known)
    assert upstream.questions() == asked
