from mirror.aio.bounded import ENTRY, LruBytes, TtlBytes
from tests.support.clock import FakeClock


def _weigh(key: str, value: str) -> int:
    return len(key) + len(value)


def test_the_least_recently_used_goes_where_bytes_run_out() -> None:
    cache = LruBytes[str, str](3 * (ENTRY + 10), _weigh)
    for key in ("a", "b", "c"):
        cache[key] = "x" * 9
    assert cache["a"]
    cache["d"] = "x" * 9
    assert set(cache) == {"a", "c", "d"}


def test_a_long_one_takes_the_room_of_many() -> None:
    cache = LruBytes[str, str](3 * (ENTRY + 10), _weigh)
    for key in ("a", "b", "c"):
        cache[key] = "x" * 9
    cache["d"] = "x" * (2 * ENTRY)
    assert set(cache) == {"d"}


def test_what_is_larger_than_everything_is_not_kept_and_what_it_replaces_goes() -> None:
    for cache in (
        LruBytes[str, str](2 * ENTRY, _weigh),
        TtlBytes[str, str](2 * ENTRY, _weigh, ttl=10, timer=FakeClock().monotonic),
    ):
        cache["a"] = "small"
        cache["b"] = "small"
        cache["a"] = "x" * (2 * ENTRY)
        assert "a" not in cache
        assert cache.currsize <= cache.maxsize


def test_what_has_had_its_time_is_gone() -> None:
    clock = FakeClock()
    cache = TtlBytes[str, str](10 * ENTRY, _weigh, ttl=10, timer=clock.monotonic)
    cache["a"] = "x"
    clock.advance(11)
    assert "a" not in cache
