"""What goes wrong at registries: faults that strike requests, gates that hold them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multidict import CIMultiDictProxy


@dataclass(slots=True, eq=False)
class Asked:
    """A request that a scripted registry got, and what became of it.

    `kind`: ping, manifest (by digest), tag (a manifest by tag), blob, upload, tags, referrers,
    token, cdn, other. `reference`: the digest, tag or upload that was asked for. `target` is the
    request target as it arrived, `query` its raw query. `sent`: bytes of the answer's body so far,
    `received`: of its own. `ended`: no more will come. `peer`: one for each connection.
    """

    kind: str
    method: str
    target: str
    path: str
    query: str
    headers: CIMultiDictProxy[str]
    repository: str = ""
    reference: str = ""
    status: int = 0
    sent: int = 0
    received: int = 0
    ended: bool = False
    peer: object = None
    changed: Callable[[], None] = lambda: None  # called when it did

    @property
    def is_push(self) -> bool:
        """Whether it is to change what is there."""
        is_manifest = self.kind in {"manifest", "tag"} and self.method == "PUT"
        return self.kind == "upload" or is_manifest

    @property
    def offset(self) -> int:
        """Where the range begins that was asked for; 0 without one."""
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)


@dataclass(slots=True, eq=False, kw_only=True)
class Fault:
    """Something that goes wrong with requests that match, at most `times`, after `skip` of them.

    A fault is used up only where it shows: `truncate_at` never by a HEAD or a shorter body,
    `ignore_range` never by a request without one. `struck` holds the requests that it hit.
    """

    # Which requests: all of these must match.
    kind: str | None = None
    method: str | None = None
    repository: str | None = None
    reference: str | None = None
    where: Callable[[Asked], bool] = lambda _: True
    skip: int = 0
    times: int | None = None

    # Before any answer.
    hang: bool = False  # takes the request, never answers
    drop: bool = False  # resets the connection instead of answering
    delay: float = 0  # seconds

    # Instead of the answer.
    status: int = 0  # with the error body that registries send
    body: bytes | None = None  # other content than was asked for, or another error body

    # About its headers.
    headers: Mapping[str, str] = field(default_factory=dict)  # added or replaced
    omit: Sequence[str] = ()  # left out: "Docker-Content-Digest", "Content-Type", ...
    chunked: bool = False  # no Content-Length
    ignore_range: bool = False  # 200 with everything

    # About its body; the first three count the bytes of this response.
    truncate_at: int | None = None  # closes the connection after so many bytes
    reset_at: int | None = None  # resets it after so many bytes have arrived
    stall_at: int | None = None  # sends no more after so many bytes, keeps the connection
    corrupt_at: int | None = None  # the byte at this offset of the content is wrong

    # About the body of a push; all count the bytes of this request.
    cut_body_at: int | None = None  # resets the connection after so many bytes, which are kept
    stall_body_at: int | None = None  # takes no more after so many bytes, keeps the connection
    body_status_at: tuple[int, int] | None = None  # after so many bytes, answers with this status
    vanish: bool = False  # the upload is forgotten before it is looked at

    struck: list[Asked] = field(default_factory=list)
    _passed: list[Asked] = field(default_factory=list)

    def strikes(self, asked: Asked) -> bool:
        """Whether this request is hit; counts it."""
        if asked in self.struck:
            return True
        if asked in self._passed or not self._matches(asked):
            return False
        if len(self._passed) < self.skip:
            self._passed.append(asked)
            return False
        if self.times is not None and len(self.struck) >= self.times:
            return False
        self.struck.append(asked)
        return True

    def _matches(self, asked: Asked) -> bool:
        return (
            self.kind in {None, asked.kind}
            and self.method in {None, asked.method}
            and self.repository in {None, asked.repository}
            and self.reference in {None, asked.reference}
            and self.where(asked)
        )


class Faults(list[Fault]):
    """The faults that are in force; the earlier wins."""

    def find(self, name: str, asked: Asked) -> Any:
        """What `name` is for this request; falsy (or None) where no fault says anything."""
        for fault in self:
            value = getattr(fault, name)
            if value not in (None, False, 0, (), {}) and fault.strikes(asked):
                return value
        return None

    def find_position(self, name: str, asked: Asked, start: int, end: int) -> int | None:
        """The position that `name` gives for this request, if it lies in `start <= p < end`."""
        for fault in self:
            position = getattr(fault, name)
            if position is not None and start <= position < end and fault.strikes(asked):
                return int(position)
        return None

    def find_body_status(self, asked: Asked, start: int, end: int) -> tuple[int, int] | None:
        """As `find_position`: where a body is answered in its middle, and with which status."""
        for fault in self:
            found = fault.body_status_at
            if found is not None and start <= found[0] < end and fault.strikes(asked):
                return found
        return None


class Gate:
    """Holds the requests for one reference, until it is opened or cuts them off."""

    def __init__(self, reference: str, after: int | None) -> None:
        self.reference = reference
        self.after = after
        self.held: list[Asked] = []
        self._reached = asyncio.Event()
        self._decided = asyncio.Event()
        self._cuts = False

    @property
    def is_decided(self) -> bool:
        """Whether it holds nobody any more."""
        return self._decided.is_set()

    async def reached(self) -> Asked:
        """The first request held, once there is one."""
        await self._reached.wait()
        return self.held[0]

    def open(self) -> None:
        """Let everyone pass, now and later."""
        self._decided.set()

    def cut(self) -> None:
        """Break the connections of those held; later requests pass."""
        self._cuts = True
        self.open()

    async def wait(self, asked: Asked) -> bool:
        """Stand at the gate; False: go no further, break the connection."""
        if self._decided.is_set():
            return True
        self.held.append(asked)
        self._reached.set()
        await self._decided.wait()
        return not self._cuts
