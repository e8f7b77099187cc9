"""One state for each digest, and one for each partial of it: who uses it, and what is under way.

A complete blob:

    state        means                                            next
    resting      nothing is under way                             committing, leaving
    committing   a proved partial takes its place                 resting
    leaving      it is being deleted: for nobody here any more    resting

A partial, which is one upstream's alone:

    state        means                                            next
    opening      somebody begins, or continues, to write it       writing, suspending
    writing      it has a writer                                  committing, suspending, removing,
                                                                  idle
    committing   it becomes the blob                              gone, writing (it could not)
    suspending   it is being left for later                       idle, removing
    idle         nobody writes to it                              opening, removing
    removing     its file is being deleted                        gone
    gone         it is no more                                    -

Beside the states stand counts of the writers whose file is open; which blobs are read, `open_files`
knows. Whatever is not kept here is at rest, and on disk or not: the index knows.

Every method is synchronous, checks its table, and leaves the I/O that is owed to its caller: what
it returns is to be closed, removed, or waited for. Who begins a change ends it, whatever happens.
Pure.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mirror.oci.digest import Digest
from mirror.storage.open_files import BlobFile, OpenFiles
from mirror.storage.space import Promise
from mirror.storage.under_way import Change


class BlobState(Enum):
    """See the first table at the top of this module."""

    RESTING = "resting"
    COMMITTING = "committing"
    LEAVING = "leaving"


class PartialState(Enum):
    """See the second table at the top of this module."""

    OPENING = "opening"
    WRITING = "writing"
    COMMITTING = "committing"
    SUSPENDING = "suspending"
    IDLE = "idle"
    REMOVING = "removing"
    GONE = "gone"


_NEXT_OF_BLOB = {
    BlobState.RESTING: {BlobState.COMMITTING, BlobState.LEAVING},
    BlobState.COMMITTING: {BlobState.RESTING},
    BlobState.LEAVING: {BlobState.RESTING},
}
_NEXT_OF_PARTIAL = {
    PartialState.OPENING: {PartialState.WRITING, PartialState.SUSPENDING},
    PartialState.WRITING: {
        PartialState.COMMITTING, PartialState.SUSPENDING, PartialState.REMOVING, PartialState.IDLE,
    },
    PartialState.COMMITTING: {PartialState.GONE, PartialState.WRITING},
    PartialState.SUSPENDING: {PartialState.IDLE, PartialState.REMOVING},
    PartialState.IDLE: {PartialState.OPENING, PartialState.REMOVING},
    PartialState.REMOVING: {PartialState.GONE},
    PartialState.GONE: set[PartialState](),
}  # fmt: skip


class PartialKey(NamedTuple):
    """Bytes that are not proved are an upstream's alone."""

    upstream: str
    digest: Digest


@dataclass(eq=False, slots=True)
class PartialEntry:
    """A partial: its state, and what it takes; `since` when it is idle, in epoch seconds."""

    key: PartialKey
    promise: Promise
    since: float
    state: PartialState
    change: Change | None = None
    writers: int = 0  # whose file is open
    is_superseded: bool = False  # the blob has come through another upstream meanwhile

    def __repr__(self) -> str:
        return f"<{self.key.digest} of {self.key.upstream}: {self.state.value}, {self.promise}>"


@dataclass(eq=False, slots=True)
class _Entry:
    """A digest: the state of its complete blob, and all else that is known of it."""

    digest: Digest
    state: BlobState = BlobState.RESTING
    change: Change | None = None
    writers: int = 0  # of any partial, whose file is open
    partials: dict[str, PartialEntry] = field(default_factory=dict)

    @property
    def is_in_use(self) -> bool:
        return self.state is not BlobState.RESTING or self.writers > 0


class States:
    """Every digest that anything is the matter with; `opened` are the files that are read."""

    def __init__(self, opened: OpenFiles) -> None:
        self._entries: dict[Digest, _Entry] = {}
        self._opened = opened
        self._freeing: set[Change] = set()

    def __repr__(self) -> str:
        return f"<States: {len(self._entries)} digests, {self._opened}>"

    # Writing

    def find_change_of_partial(self, key: PartialKey) -> Change | None:
        """What has to be waited for before the partial can have a writer."""
        partial = self._find_partial(key)
        return None if partial is None else partial.change

    def is_written(self, key: PartialKey) -> bool:
        """Whether the partial has a writer, or is about to."""
        partial = self._find_partial(key)
        return partial is not None and partial.state in {PartialState.OPENING, PartialState.WRITING}

    def begin_writer(self, key: PartialKey) -> PartialEntry:
        """Somebody is going to write: continues what is idle, or begins anew."""
        entry = self._entry(key.digest)
        partial = entry.partials.get(key.upstream)
        if partial is None:
            promise = Promise(upstream=key.upstream)
            partial = PartialEntry(key, promise, 0.0, PartialState.OPENING)
            entry.partials[key.upstream] = partial
        else:
            self._move_partial(partial, PartialState.OPENING)
            partial.promise.resume()
        partial.is_superseded = False
        partial.writers += 1
        entry.writers += 1
        return partial

    def end_opening_of_writer(self, partial: PartialEntry) -> None:
        """Its file is open."""
        self._move_partial(partial, PartialState.WRITING)

    def close_writer(self, partial: PartialEntry, *, is_ended: bool, now: float) -> None:
        """A writer's file is closed; where nobody has ended it, it waits for the next one."""
        if not is_ended:
            self._rest(partial, now)
        self._forget_writer(partial)

    def fail_writer(self, partial: PartialEntry) -> None:
        """It could not be opened, and was suspended."""
        self._forget_writer(partial)

    def begin_commit(self, partial: PartialEntry) -> None:
        """The partial becomes the blob; nothing else may be under way (`find_change`)."""
        entry = self._entries[partial.key.digest]
        self._move_blob(entry, BlobState.COMMITTING)
        self._move_partial(partial, PartialState.COMMITTING)
        partial.change = entry.change

    def end_commit(self, partial: PartialEntry, *, is_stored: bool) -> list[BlobFile]:
        """It is the blob, or could not be; returns what is to be closed.

        What other upstreams have sent of it is superseded then: `list_superseded`.
        """
        entry = self._entries[partial.key.digest]
        closing: list[BlobFile] = []
        if is_stored:
            self._remove_entry(entry, partial)
            closing = self._opened.replace(entry.digest)
            for other in entry.partials.values():
                other.is_superseded = True
        else:
            self._move_partial(partial, PartialState.WRITING)
        partial.change = None
        self._move_blob(entry, BlobState.RESTING)
        self._forget_if_idle(entry)
        return closing

    def begin_suspend(self, partial: PartialEntry) -> None:
        """The partial is being left for later."""
        self._move_partial(partial, PartialState.SUSPENDING)

    def end_suspend(self, partial: PartialEntry, *, now: float) -> bool:
        """It waits for its next writer from `now` on; False: it is of no use, `begin_removal`."""
        partial.promise.rest()
        if not partial.promise.written or partial.is_superseded:
            return False
        self._rest(partial, now)
        return True

    def begin_removal(self, partial: PartialEntry) -> None:
        """The partial's file is being deleted."""
        self._move_partial(partial, PartialState.REMOVING)

    def end_removal(self, partial: PartialEntry) -> None:
        """The partial is no more."""
        self._remove_entry(self._entries[partial.key.digest], partial)

    def add_idle(self, key: PartialKey, promise: Promise, *, since: float) -> PartialEntry:
        """A partial that an earlier process has left."""
        partial = PartialEntry(key, promise, since, PartialState.IDLE)
        self._entry(key.digest).partials[key.upstream] = partial
        return partial

    # Deleting

    def find_change(self, digest: Digest) -> Change | None:
        """What has to be waited for before anything else can be done with the blob."""
        entry = self._entries.get(digest)
        return None if entry is None else entry.change

    def is_leaving(self, digest: Digest) -> bool:
        """Whether the blob is being deleted."""
        entry = self._entries.get(digest)
        return entry is not None and entry.state is BlobState.LEAVING

    def is_in_use(self, digest: Digest) -> bool:
        """Whether the blob is read or written, or something is under way with it."""
        entry = self._entries.get(digest)
        return self._opened.is_in_use(digest) or (entry is not None and entry.is_in_use)

    def are_busy(self) -> bool:
        """Whether anything at all is read or written."""
        entries = self._entries.values()
        return self._opened.are_in_use() or any(entry.is_in_use for entry in entries)

    def list_in_use(self) -> list[Digest]:
        """The blobs that may not be evicted now, as far as there are any."""
        busy = {digest for digest, entry in self._entries.items() if entry.is_in_use}
        return list(busy.union(self._opened.list_in_use()))

    def begin_leaving(self, digests: Iterable[Digest]) -> list[BlobFile]:
        """Blobs are being deleted; returns what is to be closed.

        From now on they are here for nobody; who reads one keeps the file.
        """
        closing = []
        for digest in digests:
            entry = self._entry(digest)
            self._move_blob(entry, BlobState.LEAVING)
            closing += self._opened.drop(digest)
            for partial in entry.partials.values():
                partial.is_superseded = False
        return closing

    def end_leaving(self, digests: Iterable[Digest]) -> None:
        """They are gone, or the disk refused."""
        for digest in digests:
            entry = self._entries[digest]
            self._move_blob(entry, BlobState.RESTING)
            self._forget_if_idle(entry)

    def list_evictable(self) -> list[PartialEntry]:
        """Partials that nobody writes to, nor reads from."""
        return [partial for partial in self._list_idle() if not partial.writers]

    def list_expired(self, *, now: float, after: float) -> list[PartialEntry]:
        """Partials that nobody has continued for `after` seconds, or that are superseded."""
        return [
            partial for partial in self._list_idle()
            if partial.is_superseded or now - self._since(partial, now) > after
        ]  # fmt: skip

    def list_superseded(self, digest: Digest) -> list[PartialEntry]:
        """Partials of a blob that has come through another upstream, and that nobody writes to."""
        entry = self._entries.get(digest)
        partials = () if entry is None else entry.partials.values()
        return [
            partial for partial in partials
            if partial.is_superseded and partial.state is PartialState.IDLE
        ]  # fmt: skip

    def list_freeing(self) -> list[Change]:
        """What is under way that frees space, or counts for twice as much until it ends."""
        return list(self._freeing)

    # How

    def _entry(self, digest: Digest) -> _Entry:
        entry = self._entries.get(digest)
        if entry is None:
            entry = self._entries[digest] = _Entry(digest)
        return entry

    def _forget_if_idle(self, entry: _Entry) -> None:
        if not entry.is_in_use and not entry.partials:
            self._entries.pop(entry.digest, None)

    def _find_partial(self, key: PartialKey) -> PartialEntry | None:
        entry = self._entries.get(key.digest)
        return None if entry is None else entry.partials.get(key.upstream)

    def _list_idle(self) -> Iterator[PartialEntry]:
        for entry in self._entries.values():
            for partial in entry.partials.values():
                if partial.state is PartialState.IDLE:
                    yield partial

    def _since(self, partial: PartialEntry, now: float) -> float:
        """Never in the future: a clock that was set back must not make it live longer."""
        partial.since = min(partial.since, now)
        return partial.since

    def _rest(self, partial: PartialEntry, now: float) -> None:
        self._move_partial(partial, PartialState.IDLE)
        partial.promise.rest()
        partial.since = now

    def _forget_writer(self, partial: PartialEntry) -> None:
        partial.writers -= 1
        entry = self._entries[partial.key.digest]
        entry.writers -= 1
        self._forget_if_idle(entry)

    def _remove_entry(self, entry: _Entry, partial: PartialEntry) -> None:
        self._move_partial(partial, PartialState.GONE)
        del entry.partials[partial.key.upstream]
        self._forget_if_idle(entry)

    def _move_blob(self, entry: _Entry, state: BlobState) -> None:
        assert state in _NEXT_OF_BLOB[entry.state], f"{entry.state} to {state}"  # noqa: S101
        entry.state = state
        entry.change = self._exchange(entry.change, is_change=state is not BlobState.RESTING)

    def _move_partial(self, partial: PartialEntry, state: PartialState) -> None:
        assert state in _NEXT_OF_PARTIAL[partial.state], f"{partial.state} to {state}"  # noqa: S101
        before, partial.state = partial.state, state
        if PartialState.COMMITTING in {before, state}:
            return  # the change is the blob's
        is_change = state in {PartialState.SUSPENDING, PartialState.REMOVING}
        partial.change = self._exchange(partial.change, is_change=is_change)

    def _exchange(self, change: Change | None, *, is_change: bool) -> Change | None:
        """Go on with a change, begin one, or end it."""
        if is_change:
            change = change or Change()
            self._freeing.add(change)
            return change
        if change is not None:
            self._freeing.discard(change)
            change.end()
        return None
