"""What strangers ask for, and registries answer, is remembered in so many bytes and no more."""

import gc
import hashlib
import tracemalloc
from collections.abc import Callable

import pytest

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import Denied, ErrorCode, Missing
from mirror.oci.reference import Repository
from mirror.pull.memory import Memory
from mirror.records.ports import Link, TagRecord
from mirror.sources.registry.endpoint import Scope
from tests.support.clock import FakeClock

MIB = 2**20


def _repository(number: int) -> Repository:
    return Repository("docker.io", f"r{number:07}/".ljust(255, "x"))


def _tag(number: int) -> str:
    return f"{number:07}".ljust(128, "y")


def _digest(number: int) -> Digest:
    return parse_digest("sha512:" + hashlib.sha512(b"%d" % number).hexdigest())


def _links(memory: Memory, number: int) -> None:
    link = Link(5, is_confirmed=True, is_sent=False)
    memory.keep_link(_repository(number), _digest(number), link)


def _senders(memory: Memory, number: int) -> None:
    memory.add_senders(_digest(number), frozenset({f"upstream-{number % 7}.example"}))


def _tags(memory: Memory, number: int) -> None:
    record = TagRecord(_digest(number), float(number), is_fallback=False)
    memory.keep_tag(_repository(number), _tag(number), record)


def _missing(memory: Memory, number: int) -> None:
    scope = Scope(_repository(number), f"Bearer {number}")
    with (
        pytest.raises(Missing),
        memory.remembering_missing(scope, f"manifest {_tag(number)}"),
    ):
        raise Missing(ErrorCode.MANIFEST_UNKNOWN, "no")


def _denied(memory: Memory, number: int) -> None:
    scope = Scope(_repository(number))
    with pytest.raises(Denied), memory.remembering_missing(scope, f"manifest {_tag(number)}"):
        raise Denied(ErrorCode.DENIED, f"拒绝{number}" * 100)


@pytest.mark.parametrize(
    ("remember", "most", "times"),
    [
        (_links, 24, 30_000), (_senders, 12, 20_000), (_tags, 8, 10_000), (_missing, 8, 10_000),
        (_denied, 4, 3_000),
    ],
)  # fmt: skip
def test_what_is_remembered_of_names_that_strangers_choose_takes_so_many_bytes(
    remember: Callable[[Memory, int], None], most: int, times: int
) -> None:
    clock = FakeClock()
    memory = Memory(0, missing_for=3600, clock=clock.monotonic)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(times):
            remember(memory, number)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < most * MIB
    assert taken > most * MIB / 3  # it is full, and what is weighed is what is there
