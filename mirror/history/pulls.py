"""Which requests are one pull. Pure.

    request                      belongs to
    manifest, by tag             the client's pull of that tag, if that was active just now (clients
                                 ask HEAD first, then GET); else a new one begins
    manifest, by digest          the pull that was given it; else the client's latest of that
                                 repository (it is one of an index), unless it was pulled by that
                                 digest a while ago: then a new one begins
    blob                         the client's latest pull of that repository; a new one where there
                                 is none (who has the manifest, and reads parts)

A client is an address and its `User-Agent`. A layer may take hours: that a request began while its
pull was active is what counts, not when it ended. Reports of workers come in any order; a pull that
seems to begin with a blob is given its manifest when that is told of.

A pull went as that of its requests went which cost most, for the reason that this had. What could
not be served, and was not at another try, is the result of the whole.
"""

from collections import deque
from dataclasses import dataclass, field

from cachetools import LRUCache

from mirror.history.ports import Pull
from mirror.oci.digest import Digest
from mirror.telemetry.asked import Answers, Asked
from mirror.telemetry.traffic import Kind, Result, Why

_SAME = 10.0  # seconds after which who asks for the same image again pulls it again
_FOLLOWS = 300.0  # seconds for which a client may unpack before it asks for more of an image
_MOST_OPEN = 4096  # clients' repositories
_MOST_OF_ONE = 8  # pulls of a repository by a client
_MOST_TROUBLES = 16

# What each costs the line, and the patience of who waits.
_RANKS = (
    Result.HIT, Result.REVALIDATED, Result.LINKED, Result.STALE, Result.JOINED, Result.MISS,
)  # fmt: skip


@dataclass(slots=True, eq=False)
class OpenPull:
    """A pull that may go on."""

    id: int
    asked: Asked  # what it began with
    began: float
    ended: float
    repository: str | None
    result: Result
    why: Why
    was: Digest | None = None
    digest: Digest | None = None
    requests: int = 0
    failed: int = 0
    served: int = 0
    fetched: int = 0
    endpoint: str | None = None
    troubles: dict[object, tuple[Result, Why]] = field(default_factory=dict)
    has_served: bool = False

    @property
    def lacks_manifest(self) -> bool:
        """Whether only blobs are known of it."""
        return self.asked.kind is Kind.BLOB

    def begin_with(self, asked: Asked) -> None:
        """What it began with is told of now."""
        self.asked, self.digest = asked, asked.digest

    def add(self, asked: Asked, answers: Answers) -> None:
        """More requests of it."""
        self.began, self.ended = min(self.began, answers.began), max(self.ended, answers.ended)
        self.requests += answers.count
        self.served += answers.sent
        if self.digest is None and asked.kind is not Kind.BLOB:
            self.digest = asked.digest
        if not asked.is_served:
            self.failed += answers.count
            if len(self.troubles) < _MOST_TROUBLES:
                self.troubles[asked.reference] = (asked.result, asked.why)
            return
        self.troubles.pop(asked.reference, None)
        if not self.has_served or _RANKS.index(asked.result) > _RANKS.index(self.result):
            self.result, self.why = asked.result, asked.why
        self.was = self.was or asked.was
        self.has_served = True

    def told(self, *, tells_client: bool, is_private: bool) -> Pull:
        """As it is kept."""
        result, why = next(iter(self.troubles.values()), (self.result, self.why))
        asked = self.asked
        return Pull(
            id=self.id, began=self.began, seconds=max(0.0, self.ended - self.began),
            client=asked.client if tells_client else None, agent=asked.agent,
            upstream=asked.upstream, repository=self.repository,
            reference=None if self.repository is None else _text(asked.reference),
            digest=_text(self.digest), was=_text(self.was), result=result, why=why,
            requests=self.requests, failed=self.failed, served=self.served, fetched=self.fetched,
            endpoint=self.endpoint, is_private=is_private,
        )  # fmt: skip


_Owner = tuple[str, str, str, str]  # client, agent, upstream, repository


class OpenPulls:
    """Finds the pull that requests belong to."""

    def __init__(self, next_id: int) -> None:
        self._next_id = next_id
        self._open: LRUCache[_Owner, deque[OpenPull]] = LRUCache(_MOST_OPEN)

    def find(self, asked: Asked, repository: str | None, answers: Answers) -> OpenPull | None:
        """The pull that they belong to, if it has begun."""
        pulls = self._open.get(_owner(asked, repository))
        if pulls is None:
            return None
        latest = [*reversed(pulls)]
        if repository is None:
            return next((it for it in latest if _is_within(it, answers, _FOLLOWS)), None)
        if asked.kind is Kind.TAG:
            return _by_tag(latest, asked, answers)
        active = [it for it in latest if _is_within(it, answers, _FOLLOWS)]
        if asked.kind is Kind.MANIFEST:
            return _by_digest(active, asked, answers)
        return next(iter(active), None)

    def begin(self, asked: Asked, repository: str | None, answers: Answers) -> OpenPull:
        """One more."""
        pull = OpenPull(
            self._next_id, asked, answers.began, answers.ended, repository, asked.result, asked.why
        )
        self._next_id += 1
        owner = _owner(asked, repository)
        if (pulls := self._open.get(owner)) is None:
            pulls = self._open[owner] = deque(maxlen=_MOST_OF_ONE)
        pulls.append(pull)
        return pull


def _by_tag(latest: list[OpenPull], asked: Asked, answers: Answers) -> OpenPull | None:
    for pull in latest:
        if pull.asked.reference == asked.reference and _is_within(pull, answers, _SAME):
            return pull
    return next((it for it in latest if _is_head_of(answers, it)), None)


def _by_digest(active: list[OpenPull], asked: Asked, answers: Answers) -> OpenPull | None:
    for pull in active:
        if pull.asked.reference == asked.reference:
            return pull if _is_within(pull, answers, _SAME) else None
    for pull in active:
        if pull.digest == asked.digest:
            return pull
    return next(iter(active), None)


def _is_head_of(answers: Answers, pull: OpenPull) -> bool:
    """Whether a pull of which only blobs are known can have begun with that."""
    return (
        pull.lacks_manifest and answers.began <= pull.began and _is_within(pull, answers, _FOLLOWS)
    )


def _is_within(pull: OpenPull, answers: Answers, seconds: float) -> bool:
    """Whether requests began while a pull was active, or so soon after, and not long before."""
    return pull.began - seconds <= answers.began <= pull.ended + seconds


def _owner(asked: Asked, repository: str | None) -> _Owner:
    agent = "" if repository is None else asked.agent
    return asked.client, agent, asked.upstream, repository or ""


def _text(value: object) -> str | None:
    return None if value is None else str(value)
