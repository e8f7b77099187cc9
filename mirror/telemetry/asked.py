"""Who has asked for what, and what became of it: gathered in each worker, told in batches.

Requests that are alike are one entry with a count, so that a client that asks the same a thousand
times a second costs no more than one that asks once. There are so many entries until they are
taken, half of them at most of one client, which may call itself by ever new names, and a quarter of
what could not be served: names that nobody has cost an attacker nothing. Of what comes beyond that,
only the upstream and the result are told.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from msgspec import Meta, Struct

from mirror.aio.addresses import client_of
from mirror.oci.digest import Digest
from mirror.oci.reference import Namespace, Reference, Repository
from mirror.telemetry.traffic import Kind, Result, Sort, Tally, Traffic, Why

MOST_ENTRIES = 1024
_MOST_FAILED = MOST_ENTRIES // 4
_MOST_OF_ONE = MOST_ENTRIES // 2
LONGEST_AGENT = 200  # characters

_FAILED = frozenset({Result.NEGATIVE, Result.DENIED, Result.ERROR})

_Count = Annotated[int, Meta(ge=0, lt=2**53)]


class Asked(Struct, frozen=True, array_like=True):
    """What requests have in common. `repository` is None where too much was asked to tell it.

    `digest` is of what was answered, where that is known; a tag that has moved meant `was` before.
    """

    upstream: Namespace
    result: Result
    why: Why
    kind: Kind | None = None
    repository: Repository | None = None
    reference: Reference | None = None
    digest: Digest | None = None
    was: Digest | None = None
    client: Annotated[str, Meta(max_length=64)] = ""
    agent: Annotated[str, Meta(max_length=LONGEST_AGENT)] = ""

    @property
    def is_served(self) -> bool:
        """Whether clients were given what they asked for."""
        return is_served(self.result, self.why)


class Answers(Struct, array_like=True):
    """Of requests that are alike: how many, the bytes of content sent, and from when to when.

    `began` and `ended` are in seconds since the epoch.
    """

    count: _Count
    sent: _Count
    began: float
    ended: float


Entry = tuple[Asked, Answers]


Told = tuple[Result, Why, Digest | None]
"""How it went, why, and what the tag was before, where it has moved."""

Key = tuple[str, str, str, int, Kind, Repository, Reference | None, Digest | None, Told]
"""A `_Named` as a plain tuple: to make one is a good part of what counting costs."""


class _Named(NamedTuple):
    """What requests have in common that are counted together."""

    client: str
    agent: str
    method: str
    status: int
    kind: Kind
    repository: Repository
    reference: Reference | None
    digest: Digest | None
    told: Told


@dataclass(slots=True)
class _Counted:
    """Of a key, until it is taken; `began` and `ended` by the steady clock."""

    began: float
    ended: float
    tally: Tally
    count: int = 0
    sent: int = 0


class Requests:
    """Gathers them, and counts each in `traffic` on the way: one look-up does for both.

    `clock` gives seconds since the epoch; `steady` is what `note` is told by.
    """

    def __init__(
        self, traffic: Traffic, *, clock: Callable[[], float], steady: Callable[[], float]
    ) -> None:
        self._traffic = traffic
        self._clock = clock
        self._steady = steady
        self._counted: dict[Key, _Counted] = {}
        self._failed = 0
        self._clients = Counter[str]()
        self._lumped: dict[tuple[str, Result, Why], _Counted] = {}

    def note(self, key: Key, began: float, seconds: float, sent: int) -> None:
        """A request that began then has been answered in so many seconds, with so many bytes."""
        counted = self._counted.get(key)
        if counted is None:
            counted = self._begin(key, began)
        counted.count += 1
        counted.sent += sent
        counted.ended = began + seconds
        counted.tally.add(seconds, sent)

    def take(self) -> tuple[list[Entry], list[tuple[Sort, Tally]]]:
        """What has been noted, and what `traffic` has counted; both begin anew."""
        ahead = self._clock() - self._steady()
        taken = [(_asked(_Named(*key)), _answers(it, ahead)) for key, it in self._counted.items()]
        taken += [(Asked(*key), _answers(it, ahead)) for key, it in self._lumped.items()]
        self._counted, self._lumped, self._failed = {}, {}, 0
        self._clients.clear()
        return taken, [*self._traffic.take()]

    def _begin(self, key: Key, began: float) -> _Counted:
        named = _Named(*key)
        result, why, _ = named.told
        upstream = named.repository.namespace
        sort = Sort(upstream, named.kind, named.method, named.status, result)
        tally = self._traffic.tally_of(sort)
        failed = not is_served(result, why)
        client = client_of(named.client)
        has_room = len(self._counted) < MOST_ENTRIES and self._clients[client] < _MOST_OF_ONE
        if has_room and (not failed or self._failed < _MOST_FAILED):
            self._failed += failed
            self._clients[client] += 1
            counted = self._counted[key] = _Counted(began, began, tally)
            return counted
        counted = self._lumped.setdefault((upstream, result, why), _Counted(began, began, tally))
        counted.tally = tally
        return counted


def is_served(result: Result, why: Why) -> bool:
    """Whether that is how it goes where a client is given what it asked for."""
    return result not in _FAILED and why is not Why.MISSING


def _asked(key: _Named) -> Asked:
    result, why, was = key.told
    return Asked(
        key.repository.namespace, result, why, key.kind, key.repository, key.reference, key.digest,
        was, key.client[:64], _text(key.agent[:LONGEST_AGENT]),
    )  # fmt: skip


def _text(header: str) -> str:
    """What can be told: bytes of a header that are no UTF-8 are signs that nothing can encode."""
    return header if header.isascii() else header.encode(errors="replace").decode()


def _answers(counted: _Counted, ahead: float) -> Answers:
    return Answers(counted.count, counted.sent, counted.began + ahead, counted.ended + ahead)
