"""`max_size` holds in what the disk really gives, and what is read stays, whatever is done."""

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mirror.oci.digest import digest_of
from mirror.storage.errors import NoRoom
from mirror.storage.ports import OpenBlob
from mirror.storage.usage import Usage
from tests.support.clock import FakeClock
from tests.unit.storage.opening import UPSTREAM, content, open_store, write
from tests.unit.storage.test_usage import disk_usage

pytestmark = pytest.mark.timeout(900)  # a story is many steps, and machines are busy

T = TypeVar("T")

BLOCK = 4096
SIZES = (1, 300, BLOCK, BLOCK + 1, 3 * BLOCK + 7, 10 * BLOCK, 25 * BLOCK)
CONTENTS = [content(size, seed) for seed in range(3) for size in SIZES]
BLOBS = st.integers(0, len(CONTENTS) - 1)


class LimitMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.home = Path(tempfile.mkdtemp(prefix="limit-"))
        self.root = self.home / "0"
        self.root.mkdir()
        self.clock = FakeClock()
        self.held: list[tuple[int, OpenBlob]] = []
        self.room = room = 2**40
        for _ in range(2):  # what it takes when nothing is in it
            self.run(self._open())
            room = self.store.taken + 60 * BLOCK  # which the index gives and takes some of
            self.run(self.stack.aclose())
        self.room = room
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def _open(self) -> None:
        self.stack = AsyncExitStack()
        self.store = await self.stack.enter_async_context(
            open_store(self.root, max_size=self.room, clock=self.clock, counting=Usage)
        )

    @rule(blob=BLOBS, is_manifest=st.booleans())
    def keep(self, blob: int, is_manifest: bool) -> None:  # noqa: FBT001 - hypothesis names it
        self.clock.advance(1)
        data = CONTENTS[blob]
        try:
            self.run(self.store.keep(UPSTREAM, digest_of(data), data, is_manifest=is_manifest))
        except NoRoom:
            assert self.held or self.store.promised  # else everything could have gone

    @rule(blob=BLOBS, seed=st.integers(0, 9), is_told=st.booleans())
    def write_some(self, blob: int, seed: int, is_told: bool) -> None:  # noqa: FBT001
        self.run(self._write_some(CONTENTS[blob], seed, is_told=is_told))

    async def _write_some(self, data: bytes, seed: int, *, is_told: bool) -> None:
        dice = random.Random(seed)  # noqa: S311 - not secret
        size = len(data) if is_told else None
        writer = await self.store.open_writer(UPSTREAM, digest_of(data), size)
        try:
            for _ in range(3):
                start = dice.randrange(len(data))
                end = dice.randint(start, len(data))
                await write(writer, start, data[start:end])
                self.the_limit_holds()
        except NoRoom:
            await writer.discard()
        else:
            await writer.suspend()
        finally:
            writer.close()

    @rule(blob=BLOBS)
    def hold(self, blob: int) -> None:
        self.clock.advance(1)
        found = self.run(self.store.open_blob(digest_of(CONTENTS[blob])))
        if found is not None:
            self.held.append((blob, found))

    @rule(data=st.data())
    @precondition(lambda self: self.held)
    def let_go(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))[1].close()

    @rule(name=BLOBS, is_superseded=st.booleans())
    def judge(self, name: int, is_superseded: bool) -> None:  # noqa: FBT001
        note = self.store.note_superseded if is_superseded else self.store.note_broken
        self.run(note([digest_of(CONTENTS[name])]))

    @rule(is_crash=st.booleans())
    def restart(self, is_crash: bool) -> None:  # noqa: FBT001
        before = self.root
        if is_crash:
            self.root = self.home / str(int(self.root.name) + 1)
            shutil.copytree(before, self.root, ignore=shutil.ignore_patterns("*-shm"))
        while self.held:
            self.held.pop()[1].close()
        self.run(self.stack.aclose())
        self.run(self._open())
        self.run(self.store.tidy())

    @invariant()
    def the_limit_holds(self) -> None:
        assert disk_usage(self.root) <= self.room
        content = [*self.root.glob("blobs/*/*/*"), *self.root.glob("partial/*/*")]
        assert sum(path.stat().st_blocks * 512 for path in content) <= 84 * BLOCK  # or a bit more
        assert self.store.taken <= self.room

    @invariant()
    def what_is_held_is_there(self) -> None:
        for blob, found in self.held:
            assert os.pread(found.file.fileno(), 2**20, 0) == CONTENTS[blob]
            encoded = found.digest.encoded
            assert (self.root / "blobs" / "sha256" / encoded[:2] / encoded).exists()

    def teardown(self) -> None:
        while self.held:
            self.held.pop()[1].close()
        self.run(self.stack.aclose())
        self.runner.close()
        shutil.rmtree(self.home)


TestLimit = LimitMachine.TestCase
TestLimit.settings = settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than a timeout
    stateful_step_count=30,
    deadline=None,  # how long a step takes is the machine's affair
    suppress_health_check=list(HealthCheck),
)
