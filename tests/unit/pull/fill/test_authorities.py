import pytest

from mirror.oci.errors import Denied, ErrorCode
from mirror.pull.fill.authorities import Authorities
from tests.support.memory_source import MemorySource

NO = Denied(ErrorCode.DENIED, "no")


def test_who_joins_never_replaces_who_was_there() -> None:
    first, second = MemorySource({}), MemorySource({})
    authorities = Authorities(first)
    authorities.add(second)
    assert authorities.current is first
    assert second in authorities


def test_who_is_refused_goes_and_the_next_is_used() -> None:
    first, second = MemorySource({}), MemorySource({})
    authorities = Authorities(first)
    authorities.add(second)
    authorities.refuse(first, NO)
    assert authorities.current is second
    with pytest.raises(Denied):
        authorities.check(first)
    authorities.check(second)
    authorities.refuse(first, NO)  # by another connection
    assert authorities.current is second


def test_a_refusal_ends_it_where_nobody_else_is_left() -> None:
    source = MemorySource({})
    authorities = Authorities(source)
    with pytest.raises(Denied):
        authorities.refuse(source, NO)
    authorities.add(source)  # again, in vain
    with pytest.raises(Denied):
        authorities.check(source)


def test_only_so_many_are_taken_in() -> None:
    authorities = Authorities(MemorySource({}))
    crowd = [MemorySource({}) for _ in range(1000)]
    for source in crowd:
        authorities.add(source)
    assert sum(source in authorities for source in crowd) < 100


def test_who_was_let_in_is_known() -> None:
    first, second = MemorySource({}), MemorySource({})
    authorities = Authorities(first)
    authorities.add(second)
    authorities.note_accepted(first)
    assert authorities.has_accepted(first)
    assert not authorities.has_accepted(second)
