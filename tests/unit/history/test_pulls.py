"""Which requests are one pull."""

from hypothesis import given, strategies as st

from mirror.history.arrivals import Coming, hour_of
from mirror.history.pulls import OpenPull, OpenPulls
from mirror.oci.digest import Digest, digest_of
from mirror.oci.reference import Reference, Repository, Tag
from mirror.telemetry.asked import Answers, Asked
from mirror.telemetry.traffic import Kind, Result, Why

REPOSITORY = Repository("docker.io", "org/app")
ONE, TWO, LAYER = (digest_of(name) for name in (b"1", b"2", b"layer"))
NOW = 1_800_000_000.0
HIT = Result.HIT, Why.HERE


class Client:
    """Asks, and says which pull that belongs to."""

    def __init__(self) -> None:
        self.pulls = OpenPulls(1)
        self.agent = "docker"

    def asks(
        self,
        reference: Reference,
        at: float,
        *,
        until: float | None = None,
        digest: Digest = ONE,
        went: tuple[Result, Why] = HIT,
        is_blob: bool = False,
    ) -> OpenPull:
        kind = Kind.TAG if isinstance(reference, Tag) else Kind.MANIFEST
        asked = Asked(
            "docker.io", *went, Kind.BLOB if is_blob else kind, REPOSITORY, reference,
            reference if isinstance(reference, Digest) else digest, None, "10.0.0.1", self.agent,
        )  # fmt: skip
        answers = Answers(1, 10, NOW + at, NOW + (at if until is None else until))
        pull = self.pulls.find(asked, str(REPOSITORY), answers)
        if pull is None:
            pull = self.pulls.begin(asked, str(REPOSITORY), answers)
        elif pull.lacks_manifest and not is_blob and answers.began <= pull.began:
            pull.begin_with(asked)
        pull.add(asked, answers)
        return pull


def test_head_get_members_and_layers_are_one() -> None:
    client = Client()
    head = client.asks(Tag("1"), 0)
    assert client.asks(Tag("1"), 1) is head
    assert client.asks(ONE, 1) is head
    assert client.asks(TWO, 2) is head  # of an index
    assert client.asks(LAYER, 3, until=4000, is_blob=True) is head
    assert client.asks(digest_of(b"more"), 4100, is_blob=True) is head
    assert (head.requests, head.served) == (6, 60)


def test_who_pulls_again_has_another_pull() -> None:
    client = Client()
    first = client.asks(Tag("1"), 0)
    again = client.asks(Tag("1"), 30)
    assert again is not first
    assert client.asks(LAYER, 31, is_blob=True) is again
    by_digest = client.asks(ONE, 4000)
    assert by_digest not in {first, again}
    assert client.asks(ONE, 4030) is not by_digest


def test_tags_are_pulls_of_their_own_and_so_are_agents() -> None:
    client = Client()
    one = client.asks(Tag("1"), 0)
    two = client.asks(Tag("2"), 1, digest=TWO)
    assert one is not two
    assert client.asks(ONE, 2) is one
    assert client.asks(TWO, 2) is two
    client.agent = "skopeo"
    assert client.asks(Tag("1"), 2) not in {one, two}


def test_a_blob_that_is_told_of_first_is_of_the_manifest_before_it() -> None:
    client = Client()
    pull = client.asks(LAYER, 2, is_blob=True)
    assert client.asks(Tag("1"), 1) is pull
    assert (pull.asked.reference, pull.digest) == (Tag("1"), ONE)


def test_the_dearest_request_decides_and_a_failure_until_it_is_mended() -> None:
    client = Client()
    pull = client.asks(Tag("1"), 0, went=(Result.REVALIDATED, Why.TAG_CONFIRMED))
    client.asks(TWO, 1, went=(Result.MISS, Why.OTHER_PLATFORM))
    client.asks(LAYER, 2, is_blob=True, went=(Result.ERROR, Why.UPSTREAM_DOWN))
    told = pull.told(tells_client=True, is_private=False)
    assert (told.result, told.why, told.failed) == (Result.ERROR, Why.UPSTREAM_DOWN, 1)
    client.asks(LAYER, 3, is_blob=True, went=(Result.MISS, Why.EVICTED))
    told = pull.told(tells_client=False, is_private=True)
    assert (told.result, told.why, told.failed) == (Result.MISS, Why.OTHER_PLATFORM, 1)
    assert (told.client, told.is_private) == (None, True)


AMOUNTS = st.integers(0, 100)


@given(st.lists(st.tuples(st.booleans(), AMOUNTS, st.integers(0, 7200))))
def test_no_more_is_of_use_than_came_or_was_served_and_what_is_not_is_waste(
    events: list[tuple[bool, int, int]],
) -> None:
    coming, now = Coming(1, REPOSITORY, LAYER, NOW, NOW), NOW
    wasted: dict[int, int] = {}
    served = used = 0
    for comes, amount, later in events:
        now += later
        if comes:
            coming.add("hub", amount, now)
            hour = hour_of(now)
            wasted[hour] = wasted.get(hour, 0) + coming.tell()
            continue
        served += amount
        for hour, part in coming.serve(amount):
            assert part > 0
            used += part
            wasted[hour] -= part
        assert 0 <= used <= min(served, coming.fetched)
    assert all(amount >= 0 for amount in wasted.values())
    assert sum(wasted.values()) == coming.fetched - coming.used
    assert used == coming.used
