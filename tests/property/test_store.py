"""The store, its space and its index against plain dicts, whatever happens in whatever order.

The model knows which bytes were written and what a digest stands for; the disk is looked at with
nothing but `pathlib` and `hashlib`. What may leave to make room is for the store to choose: the
model takes note of what has gone, and sees to it that it was allowed to go.
"""

import asyncio
import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mirror.oci.digest import parse_digest
from mirror.oci.errors import StoreError
from mirror.storage.building import open_storage
from mirror.storage.errors import NoRoom
from mirror.storage.ports import OpenBlob
from mirror.storage.space import Limits
from mirror.storage.usage import ContentOnly
from mirror.storage.writer import LocalWriter
from mirror.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.unit.storage.opening import UPSTREAM, write

pytestmark = pytest.mark.timeout(900)  # a story is many steps, and machines are busy

T = TypeVar("T")

MAX_SIZE = 6_000
SIZES = (0, 1, 100, 500, 1_229, 2_000, 4_200, 6_001)  # the last one never fits
CONTENTS = [random.Random(size).randbytes(size) for size in SIZES]  # noqa: S311 - not secret
NAMES = [hashlib.sha256(content).hexdigest() for content in CONTENTS]
BLOBS = st.integers(0, len(CONTENTS) - 1)


@dataclass
class Writing:
    """What the model knows of a blob on its way."""

    blob: int
    there: set[int] = field(default_factory=set)  # positions
    is_right: bool = True

    @property
    def prefix(self) -> int:
        return next((at for at in range(len(self.there)) if at not in self.there), len(self.there))


def _raise(_: str, fault: Exception) -> None:
    raise fault


class StoreMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.home = Path(tempfile.mkdtemp(prefix="store-"))
        self.root = self.home / "0"
        self.clock = FakeClock()
        self.writers: dict[int, tuple[LocalWriter, Writing]] = {}
        self.idle: dict[int, Writing] = {}
        self.held: list[tuple[int, OpenBlob]] = []
        self.stored: set[int] = set()
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def _open(self) -> None:
        self.stack = AsyncExitStack()
        self.store = await self.stack.enter_async_context(
            open_storage(
                self.root,
                Limits(MAX_SIZE, 0),
                keep_partial_for=10**9,
                clock=self.clock,
                metrics=Metrics(),
                note_fault=_raise,
                counting=ContentOnly,
            )
        )
        for blob in self.stored:  # a start has no use for a partial of what is there
            self.idle.pop(blob, None)

    def _blobs_on_disk(self) -> dict[int, bytes]:
        return {
            NAMES.index(path.name): path.read_bytes()
            for path in (self.root / "blobs").glob("*/*/*")
        }

    def _partials_on_disk(self) -> set[int]:
        """Those with anything in them."""
        return {
            NAMES.index(path.name.removeprefix("sha256-"))
            for path in (self.root / "partial").glob("*/sha256-*")
            if path.suffix != ".ranges" and path.stat().st_size
        }

    def _see_what_has_gone(self) -> None:
        """Whatever made room: only what nobody uses may have gone."""
        gone = self.stored - set(self._blobs_on_disk())
        assert gone.isdisjoint(blob for blob, _ in self.held)
        self.stored -= gone
        for blob in set(self.idle) - self._partials_on_disk():
            del self.idle[blob]

    # Writing

    @rule(blob=BLOBS, knows_size=st.booleans(), is_proved=st.booleans())
    def open_writer(self, blob: int, knows_size: bool, is_proved: bool) -> None:  # noqa: FBT001 - hypothesis names it
        if blob in self.writers:
            return
        before = self._blobs_on_disk().keys(), self._partials_on_disk()
        size = SIZES[blob] if knows_size else None
        try:
            writer = self.run(self._begin(blob, size, is_proved=is_proved and knows_size))
        except NoRoom:
            self.idle.pop(blob, None) if blob not in self._partials_on_disk() else None
            assert size is not None
            if not is_proved:
                assert self._blobs_on_disk().keys() == before[0]
                return
            in_use = {other for other, _ in self.held} | (self.stored & {blob, *self.writers})
            taken = sum(SIZES[other] for other in in_use)
            taken += sum(
                max(writer.promised, writer.size or 0) for writer, _ in self.writers.values()
            )
            assert taken + size > MAX_SIZE  # it was really impossible, ...
            assert (self._blobs_on_disk().keys(), self._partials_on_disk()) == before  # ... so:
            return
        self._see_what_has_gone()
        writing = self.idle.pop(blob, None) or Writing(blob)
        self.writers[blob] = (writer, writing)
        self._agree(writer, writing)

    async def _begin(self, blob: int, size: int | None, *, is_proved: bool) -> LocalWriter:
        digest = parse_digest(f"sha256:{NAMES[blob]}")
        writer = await self.store.open_writer(UPSTREAM, digest, size, is_size_proved=is_proved)
        try:
            if writer.size is not None:
                await writer.expect(size)
        except NoRoom:
            await writer.suspend()
            writer.close()
            raise
        return writer

    def _promised_to_writers(self) -> int:
        return sum(writer.promised for writer, _ in self.writers.values())

    @rule(
        data=st.data(),
        start=st.integers(0, 3_000),
        length=st.integers(1, 3_000),
        is_right=st.sampled_from([True] * 9 + [False]),
    )
    @precondition(lambda self: self.writers)
    def write(self, data: st.DataObject, start: int, length: int, is_right: bool) -> None:  # noqa: FBT001
        blob = data.draw(st.sampled_from(sorted(self.writers)))
        start = min(start, SIZES[blob])
        end = min(start + length, SIZES[blob])
        self._write(blob, start, end, is_right=is_right)

    def _write(self, blob: int, start: int, end: int, *, is_right: bool = True) -> bool:
        writer, writing = self.writers[blob]
        content = CONTENTS[blob][start:end]
        if not is_right:
            content = bytes(byte ^ 1 for byte in content)
        middle = len(content) // 3
        try:
            self.run(write(writer, start, content[:middle], content[middle:]))
        except NoRoom:  # room is made as bytes arrive, and others were faster
            self._end(blob, writer.discard())
            return False
        new = set(range(start, end)) - writing.there
        if new and not is_right:
            writing.is_right = False
        writing.there |= new
        self._see_what_has_gone()
        self._agree(writer, writing)
        return True

    @rule(data=st.data(), seed=st.integers(0, 99))
    @precondition(lambda self: self.writers)
    def write_the_rest_at_once(self, data: st.DataObject, seed: int) -> None:
        blob = data.draw(st.sampled_from(sorted(self.writers)))
        writer, writing = self.writers[blob]
        if writer.size is None:
            try:
                self.run(writer.expect(SIZES[blob]))
            except NoRoom:
                self._end(blob, writer.discard())
                return
        pieces = [
            (start, min(start + 333, end))
            for gap, end in writer.missing()
            for start in range(gap, end, 333)
        ]
        random.Random(seed).shuffle(pieces)  # noqa: S311 - not secret

        async def write_all() -> None:
            async with asyncio.TaskGroup() as tasks:
                for start, end in pieces:
                    tasks.create_task(write(writer, start, CONTENTS[blob][start:end]))

        try:
            self.run(write_all())
        except* NoRoom:  # somebody holds what was to go; something went for the first pieces
            self._end(blob, writer.discard())
            self._see_what_has_gone()
        if blob not in self.writers:
            return
        writing.there = set(range(SIZES[blob]))
        self._see_what_has_gone()
        self._agree(writer, writing)

    def _agree(self, writer: LocalWriter, writing: Writing) -> None:
        """What a writer says of itself is what the model knows."""
        blob = writing.blob
        is_whole = len(writing.there) == SIZES[blob]
        assert writer.written == writing.prefix
        assert writer.is_proved() == (is_whole and writing.is_right)
        if writer.size is not None:
            missing = [at for start, end in writer.missing() for at in range(start, end)]
            assert missing == sorted(set(range(SIZES[blob])) - writing.there)

    @rule(data=st.data(), how=st.sampled_from(["commit", "commit", "suspend", "discard", "close"]))
    @precondition(lambda self: self.writers)
    def end(self, data: st.DataObject, how: str) -> None:
        blob = data.draw(st.sampled_from(sorted(self.writers)))
        writer, writing = self.writers[blob]
        if how == "commit":
            self._commit(blob)
        elif how == "discard":
            self._end(blob, writer.discard())
        else:
            self._end(blob, writer.suspend() if how == "suspend" else None)
            if writing.there:
                self.idle[blob] = writing

    def _commit(self, blob: int) -> None:
        writer, writing = self.writers[blob]
        is_right = writing.is_right and len(writing.there) == SIZES[blob]
        try:
            self.run(writer.commit())
        except StoreError:
            assert not is_right
            self._end(blob, writer.discard())
            return
        assert is_right
        self.stored.add(blob)
        self._end(blob, None)

    def _end(self, blob: int, how: Coroutine[Any, Any, None] | None) -> None:
        writer, writing = self.writers.pop(blob)
        if how is not None:
            self.run(how)
        if writing.is_right:
            found = os.pread(writer.file.fileno(), writing.prefix, 0)
            assert found == CONTENTS[blob][: writing.prefix]
        writer.close()

    # Reading

    @rule(blob=BLOBS)
    def hold(self, blob: int) -> None:
        self.clock.advance(1)
        found = self.run(self.store.open_blob(parse_digest(f"sha256:{NAMES[blob]}")))
        assert (found is not None) == (blob in self.stored)
        if found is not None:
            self.held.append((blob, found))

    @rule(data=st.data())
    @precondition(lambda self: self.held)
    def let_go(self, data: st.DataObject) -> None:
        _, blob_file = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        blob_file.close()

    @rule(blob=BLOBS)
    def keep(self, blob: int) -> None:
        if blob in self.writers:
            return
        self.clock.advance(1)
        digest = parse_digest(f"sha256:{NAMES[blob]}")
        idle = self.idle.get(blob)
        try:
            self.run(self.store.keep(UPSTREAM, digest, CONTENTS[blob], is_manifest=True))
            self.stored.add(blob)
            self.idle.pop(blob, None) if blob not in self._partials_on_disk() else None
        except NoRoom:
            pass
        except StoreError:
            assert idle is not None  # it went on with the wrong bytes, noticed, and dropped them
            assert not idle.is_right
        self._see_what_has_gone()

    # Ends and beginnings

    def _leave(self, *, suspend: bool) -> None:
        while self.held:
            self.held.pop()[1].close()
        for blob in sorted(self.writers):
            writer, writing = self.writers[blob]
            self._end(blob, writer.suspend() if suspend else None)
            if writing.there:
                self.idle[blob] = writing

    @rule(loses_index=st.booleans())
    def restart(self, loses_index: bool) -> None:  # noqa: FBT001
        self._leave(suspend=True)
        self.run(self.stack.aclose())
        if loses_index:
            for path in self.root.glob("index.sqlite3*"):
                path.unlink()
        self.run(self._open())
        self.run(self.store.adopt())  # which goes on while it serves

    @rule()
    def crash(self) -> None:
        """The next mirror finds the disk as it was in the middle of everything."""
        after = self.home / str(int(self.root.name) + 1)
        shutil.copytree(self.root, after, ignore=shutil.ignore_patterns("*-shm"))
        before, self.root = self.root, after
        self._leave(suspend=False)
        self.run(self.stack.aclose())
        shutil.rmtree(before)
        self.run(self._open())

    # What always holds

    @invariant()
    def the_disk_holds_what_the_model_knows(self) -> None:
        found = self._blobs_on_disk()
        assert set(found) == self.stored
        assert all(content == CONTENTS[blob] for blob, content in found.items())
        begun = {blob for blob, (_, writing) in self.writers.items() if writing.there}
        assert self._partials_on_disk() == set(self.idle) | begun

    @invariant()
    def the_cap_holds(self) -> None:
        complete = sum(len(content) for content in self._blobs_on_disk().values())
        on_their_way = [*self.idle.values(), *(writing for _, writing in self.writers.values())]
        assert complete + sum(len(writing.there) for writing in on_their_way) <= MAX_SIZE

    @invariant()
    def the_ledger_is_the_disk(self) -> None:
        totals = self.store.totals
        assert totals.blobs == len(self.stored)
        assert totals.bytes == sum(SIZES[blob] for blob in self.stored)
        waiting = sum(len(writing.there) for writing in self.idle.values())
        assert self.store.promised == waiting + self._promised_to_writers()
        for writer, writing in self.writers.values():
            assert len(writing.there) <= writer.promised

    @invariant()
    def what_is_held_can_be_read(self) -> None:
        for blob, blob_file in self.held:
            assert blob in self.stored
            assert os.pread(blob_file.file.fileno(), MAX_SIZE, 0) == CONTENTS[blob]

    def teardown(self) -> None:
        self._leave(suspend=True)
        self.run(self.stack.aclose())
        self.runner.close()
        shutil.rmtree(self.home)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than a timeout
    stateful_step_count=30,
    deadline=None,  # how long a step takes is the machine's affair
    suppress_health_check=list(HealthCheck),
)
