from mirror.oci.digest import digest_of
from mirror.storage.policy import Candidate, Kind, LeastWorth


def _candidate(kind: Kind, rank: float, size: int = 10) -> Candidate:
    return Candidate(kind, digest_of(f"{kind} {rank}".encode()), size, rank)


PARTIAL = _candidate(Kind.PARTIAL, 9.0)
OLD, YOUNG = _candidate(Kind.BLOB, 2.0), _candidate(Kind.BLOB, 3.0)
MANIFEST = _candidate(Kind.MANIFEST, 4.0)
EVERYTHING = [MANIFEST, YOUNG, PARTIAL, OLD]


def _choose(excess: int, *, most: int = 99, beyond: int = 0) -> list[Candidate]:
    return LeastWorth().choose(EVERYTHING, excess, most=most, beyond=beyond)


def test_what_serves_nobody_goes_first_and_then_what_is_worth_least() -> None:
    assert _choose(40) == [PARTIAL, OLD, YOUNG, MANIFEST]


def test_as_little_goes_as_will_do() -> None:
    assert _choose(1) == [PARTIAL]
    assert _choose(10) == [PARTIAL]
    assert _choose(11) == [PARTIAL, OLD]


def test_nothing_goes_in_vain() -> None:
    assert _choose(41) == []


def test_what_is_not_shown_counts_as_what_may_go_later() -> None:
    assert _choose(41, beyond=1) == [PARTIAL, OLD, YOUNG, MANIFEST]
    assert _choose(42, beyond=1) == []


def test_no_more_go_at_a_time_than_asked_for() -> None:
    assert _choose(40, most=3) == [PARTIAL, OLD, YOUNG]
