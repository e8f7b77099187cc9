import asyncio
import gc
import os
import time
import tracemalloc

import pytest

from tests.support import loop_watch
from tests.support.loop_watch import watching_the_loop


def _spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def _see(work: object) -> bool:
    with watching_the_loop(limit=0.05, of=__file__) as holds:
        await asyncio.sleep(0.02)
        work()  # type: ignore[operator]
        await asyncio.sleep(0.02)
    return bool(holds)


async def test_python_that_computes_for_long_is_seen() -> None:
    assert await _see(lambda: _spin(0.2))


async def test_a_long_call_into_c_is_seen() -> None:
    assert await _see(lambda: sum(range(20_000_000)))


async def test_what_waits_or_computes_for_a_short_while_is_not() -> None:
    assert not await _see(lambda: time.sleep(0.2))  # blockbuster's to find
    assert not await _see(lambda: _spin(0.01))


class _Cycle:
    def __init__(self, after: float) -> None:
        self.me, self.after = self, after

    def __del__(self) -> None:
        _spin(self.after)


async def test_a_collection_of_garbage_is_not_even_while_it_calls_finalizers() -> None:
    for _ in range(20):
        _Cycle(0.01)
    assert not await _see(gc.collect)


async def test_a_fork_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> None:
        if not (child := os.fork()):
            os._exit(0)
        os.waitpid(child, 0)

    excuse = loop_watch.excuse

    def excuse_slowly(*, begins: bool) -> None:
        excuse(begins=begins)
        if begins:
            _spin(0.2)

    monkeypatch.setattr(loop_watch, "excuse", excuse_slowly)
    assert not await _see(fork)


async def test_what_is_traced_is_not_judged_for_what_the_tracing_takes() -> None:
    tracemalloc.start()
    try:
        assert not await _see(lambda: _spin(0.2))
    finally:
        tracemalloc.stop()


async def test_many_short_callbacks_are_not_one_that_is_long() -> None:
    async def work() -> None:
        _spin(0.005)

    with watching_the_loop(limit=0.05, of=__file__) as holds:
        await asyncio.gather(*(work() for _ in range(60)))
    assert not holds


async def test_a_watch_that_cannot_look_often_blames_nobody_for_all_that_was_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_watch, "_OFTEN", 0.3)
    with watching_the_loop(limit=0.05, of=__file__) as holds:
        for _ in range(200):
            _spin(0.005)
            await asyncio.sleep(0)
    assert not holds
