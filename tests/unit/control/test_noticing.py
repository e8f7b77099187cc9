"""What is told to webhooks, and how often."""

from collections.abc import Sequence
from itertools import count

from mirror.aio.lives import Life
from mirror.control.models import Endpoint, PullQuota, Store
from mirror.control.noticing import Noticing, Seen
from mirror.telemetry.mismatches import Mismatch
from tests.support.clock import FakeClock

DAY = 86400.0
GIB = 2**30


def noticing(clock: FakeClock) -> Noticing:
    numbers = count()
    return Noticing(mirror="here", new_id=lambda: str(next(numbers)), monotonic=clock.monotonic)


def endpoint(
    *, is_up: bool = True, left: int | None = None, refused: str | None = None
) -> Endpoint:
    quota = None if left is None else PullQuota(limit=100, remaining=left)
    return Endpoint(
        upstream="docker.io", name="hub", url="https://hub", is_up=is_up,
        trouble=None if is_up else "hub is silent", retry_seconds=0, pauses=[], quota=quota,
        received=0, rate=0, credentials_trouble=refused,
    )  # fmt: skip


def seen(
    *endpoints: Endpoint,
    free: int = 9 * GIB,
    ends: float = 90 * DAY,
    life: float = 90 * DAY,
    mismatches: Sequence[Mismatch] = (),
    disk_trouble: str | None = None,
) -> Seen:
    store = Store(root="/store", blobs=0, bytes=0, disk=0, limit=GIB, free=free, min_free=2 * GIB)
    return Seen(
        now=1000, endpoints=endpoints or [endpoint()], store=store, disk_trouble=disk_trouble,
        lives={"tls_certificate_file": Life(1000 + ends - life, 1000 + ends)},
        mismatches=mismatches,
    )  # fmt: skip


def look(at: Noticing, *each: Seen) -> list[tuple[str, str]]:
    return [(it.occasion, it.state) for one in each for it in at.look(one)]


def test_where_all_is_well_nobody_is_told_anything(clock: FakeClock) -> None:
    assert look(noticing(clock), seen(), seen()) == []


def test_what_begins_and_ends_is_told_of_once_each(clock: FakeClock) -> None:
    its = noticing(clock)
    down = seen(endpoint(is_up=False))
    assert look(its, down, down) == [("upstream", "trouble")]
    (back,) = its.look(seen())
    assert (back.state, back.text) == ("well", "https://hub (docker.io) is back")
    assert look(its, seen(), down) == [("upstream", "trouble")]


def test_it_is_said_what_is_down_and_why(clock: FakeClock) -> None:
    (told,) = noticing(clock).look(seen(endpoint(is_up=False)))
    assert told.text == "https://hub (docker.io) is down: hub is silent"
    assert (told.upstream, told.endpoint, told.mirror) == ("docker.io", "hub", "here")


def test_credentials_that_are_refused_are_told_of_until_others_are_let_in(clock: FakeClock) -> None:
    its = noticing(clock)
    (told,) = its.look(seen(endpoint(refused="renew them")))
    assert (told.occasion, told.state) == ("credentials", "trouble")
    assert told.text == "https://hub (docker.io) does not let the mirror in: renew them"
    assert (told.upstream, told.endpoint) == ("docker.io", "hub")
    assert look(its, seen(endpoint(refused="renew them"))) == []
    (well,) = its.look(seen())
    assert (well.state, well.text) == ("well", "https://hub (docker.io) lets the mirror in again")


def test_an_endpoint_that_is_configured_no_longer_troubles_nobody(clock: FakeClock) -> None:
    its = noticing(clock)
    store = seen()
    assert look(its, seen(endpoint(is_up=False))) == [("upstream", "trouble")]
    gone = Seen(
        now=1001, endpoints=[], store=store.store, disk_trouble=None, lives={}, mismatches=[]
    )
    assert look(its, gone) == [("upstream", "well")]


def test_a_quota_at_its_bound_is_told_of_once(clock: FakeClock) -> None:
    its = noticing(clock)
    each = [seen(endpoint(left=left)) for left in (10, 9, 10, 15, 9, 19)]
    assert look(its, *each) == [("quota", "trouble")]
    assert look(its, seen(endpoint(left=20))) == [("quota", "well")]


def test_a_full_disk_is_told_of_whoever_has_filled_it(clock: FakeClock) -> None:
    its = noticing(clock)
    full, refused = seen(free=GIB), seen(disk_trouble="no space left")
    assert look(its, full, refused) == [("disk", "trouble")]
    assert look(its, seen()) == [("disk", "well")]


def test_a_certificate_is_told_of_two_weeks_before_its_end(clock: FakeClock) -> None:
    its = noticing(clock)
    assert look(its, seen(ends=14 * DAY)) == []
    (told,) = its.look(seen(ends=14 * DAY - 1))
    assert "server.tls_certificate_file ends: 1970-01-15" in told.text
    assert look(its, seen(ends=90 * DAY)) == [("certificate", "well")]
    (over,) = its.look(seen(ends=-1.0))
    assert "has ended" in over.text


def test_a_certificate_of_a_short_life_is_told_of_when_it_should_have_been_renewed(
    clock: FakeClock,
) -> None:
    its = noticing(clock)
    assert look(its, seen(ends=2 * DAY, life=6 * DAY)) == []
    assert look(its, seen(ends=1 * DAY, life=6 * DAY)) == [("certificate", "trouble")]
    assert look(its, seen(ends=6 * DAY, life=6 * DAY)) == [("certificate", "well")]


def test_the_same_wrong_bytes_are_told_of_once_an_hour(clock: FakeClock) -> None:
    its = noticing(clock)
    lie = Mismatch("docker.io", "sha256:abc", ("hub", "mirror"))
    assert look(its, seen(mismatches=[lie, lie]), seen(mismatches=[lie])) == [
        ("digest-mismatch", "trouble")
    ]
    clock.advance(3601)
    (again,) = its.look(seen(mismatches=[lie]))
    assert again.text == "hub, mirror (docker.io) sent bytes that are not sha256:abc; none was kept"
    assert again.digest == "sha256:abc"
