"""Who has asked for what, and what became of it: gathered in each worker, told in batches.

Requests that are alike are one entry with a count, so that a client that asks the same a thousand
times a second costs no more than one that asks once. There are so many entries until they are
taken, and a quarter of them at most is of what could not be served: names that nobody has cost an
attacker nothing. Of what comes beyond that, only the upstream and the result are told.
"""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct

from mirror.oci.digest import Digest
from mirror.oci.reference import Namespace, Reference, Repository
from mirror.telemetry.traffic import Kind, Result, Why

MOST_ENTRIES = 1024
_MOST_FAILED = MOST_ENTRIES // 4
_LONGEST_AGENT = 200  # characters

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
    agent: Annotated[str, Meta(max_length=_LONGEST_AGENT)] = ""

    @property
    def is_served(self) -> bool:
        """Whether clients were given what they asked for."""
        return is_served(self.result, self.why)


class Answers(Struct, array_like=True):
    """Of requests that are alike: how many, the bytes of content sent, and from when to when.

    `began` and `ended` are in seconds; once they are told, since the epoch.
    """

    count: _Count
    sent: _Count
    began: float
    ended: float


Entry = tuple[Asked, Answers]

Key = tuple[str, str, Kind, Repository, Reference | None, Digest | None, Result, Why, Digest | None]
"""Client, agent, kind, repository, reference, digest, result, why, was."""


class Requests:
    """Gathers them. `clock` gives seconds since the epoch; `steady` is what `note` is told by."""

    def __init__(self, *, clock: Callable[[], float], steady: Callable[[], float]) -> None:
        self._clock = clock
        self._steady = steady
        self._answers: dict[Key, Answers] = {}
        self._failed = 0
        self._lumped: dict[tuple[str, Result, Why], Answers] = {}

    def note(self, key: Key, began: float, seconds: float, sent: int) -> None:
        """A request that began then has been answered in so many seconds, with so many bytes."""
        answers = self._answers.get(key)
        if answers is None:
            answers = self._begin(key, began)
        answers.count += 1
        answers.sent += sent
        answers.ended = began + seconds

    def take(self) -> list[Entry]:
        """What has been noted; it begins anew."""
        ahead = self._clock() - self._steady()
        taken = [(_asked(key), _dated(it, ahead)) for key, it in self._answers.items()]
        taken += [(Asked(*key), _dated(it, ahead)) for key, it in self._lumped.items()]
        self._answers, self._lumped, self._failed = {}, {}, 0
        return taken

    def _begin(self, key: Key, began: float) -> Answers:
        failed = not is_served(key[6], key[7])
        if len(self._answers) < MOST_ENTRIES and (not failed or self._failed < _MOST_FAILED):
            self._failed += failed
            answers = self._answers[key] = Answers(0, 0, began, began)
            return answers
        lump = key[3].namespace, key[6], key[7]
        return self._lumped.setdefault(lump, Answers(0, 0, began, began))


def is_served(result: Result, why: Why) -> bool:
    """Whether that is how it goes where a client is given what it asked for."""
    return result not in _FAILED and why is not Why.MISSING


def _asked(key: Key) -> Asked:
    client, agent, kind, repository, reference, digest, result, why, was = key
    return Asked(
        repository.namespace, result, why, kind, repository, reference, digest, was,
        client[:64], agent[:_LONGEST_AGENT],
    )  # fmt: skip


def _dated(answers: Answers, ahead: float) -> Answers:
    return Answers(answers.count, answers.sent, answers.began + ahead, answers.ended + ahead)
