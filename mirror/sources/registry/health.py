"""Whether an endpoint is worth asking, and for what: circuit breakers, quotas and pauses. Pure.

An answer about one thing closes that thing, and nothing beside it :

    what is seen                                   what it closes
    no connection, or silence                      the endpoint (of a token: the token server)
    silence, while others are answered             this kind of request in this repository
    5xx, or a connection that breaks               the same, from the third in a row
    either in three repositories, and no answer    the endpoint
    either where /v2/ is asked for                 the endpoint
    429                                            this kind of request, for as long as it says
    429 or 503 by storage that one was sent to     that one thing, for as long as it says
    anything of a push, but that nobody is there   nothing: who pushes has a patience of their own

Each breaker is a machine of its own :

    state     asked?          success    failure
    up        yes             up         up, and down from the third in a row (at once if grave)
    down      no              up         down, for longer
    probing   one request     up         down, for longer

"Down" has an end; whoever asks first after it makes the probe, and until that one has reported
(or has had its time) nobody else does. So an outage costs one request its timeout, and all the
others nothing.
"""

from dataclasses import dataclass
from enum import Enum, auto

from cachetools import LRUCache

from mirror.aio.backoff import Backoff

_TOLERATED = 3  # failures in a row that tell of an outage; one answer of 503 does not
_PROBE_PATIENCE = 10.0  # seconds for a probe to report; it may have been cancelled
_REMEMBERED = 4096  # kinds of requests in repositories, and things, that have given trouble


class Quota(Enum):
    """What registries count apart: a limit on one says nothing of the others (as Docker Hub's)."""

    MANIFESTS = auto()  # GETs
    CHECKS = auto()  # HEADs of manifests
    BLOBS = auto()
    LISTS = auto()  # tags
    REFERRERS = auto()
    TOKENS = auto()
    LOGINS = auto()  # `/v2/`, asked for by clients
    PUSHES = auto()  # uploads and manifests


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a kind of request, in a repository, about a thing (its path there)."""

    quota: Quota
    repository: str
    thing: str = ""

    @property
    def kind(self) -> tuple[Quota, str]:
        """What a breaker of its own is for."""
        return self.quota, self.repository


class Trouble(Enum):
    """How a question fared that had no answer; see the table."""

    UNREACHABLE = auto()
    SLOW = auto()
    BROKEN = auto()
    ERROR = auto()


class Breaker:
    """What is thought of one thing. Times are of any one steady clock."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._failures = 0
        self._down_until: float | None = None
        self._probing_until = 0.0

    def __repr__(self) -> str:
        return f"<Breaker: {self._failures} failures, down until {self._down_until}>"

    @property
    def is_up(self) -> bool:
        """Whether it is thought to work."""
        return self._down_until is None

    def lets_in(self, now: float) -> bool:
        """Whether a request may be sent now."""
        return self._down_until is None or now >= max(self._down_until, self._probing_until)

    def enter(self, now: float) -> None:
        """A request is sent, as `lets_in` has allowed; it may be the probe: report on it."""
        if self._down_until is not None:
            self._probing_until = now + _PROBE_PATIENCE

    def wait(self, now: float) -> float:
        """Seconds until `lets_in` may say yes again; 0 if it would now, or when a probe reports."""
        return max(0.0, (self._down_until or 0.0) - now)

    def succeeded(self) -> None:
        """It has answered, and sensibly."""
        self._failures = 0
        self._down_until = None
        self._probing_until = 0.0

    def failed(self, now: float, *, roll: float, grave: bool) -> None:
        """It has not. `grave`: one more would tell no more."""
        if self._down_until is not None and not self._probing_until:
            return  # asked before that was known: one outage is not ten because ten were under way
        self._failures = max(self._failures + 1, _TOLERATED if grave else 0)
        excess = self._failures - _TOLERATED + 1
        if excess > 0:
            self._down_until = now + self._backoff.delay(excess, roll=roll)
            self._probing_until = 0.0

    def probe_told_nothing(self) -> None:
        """The probe has met other trouble than this is about: another one may follow at once."""
        self._probing_until = 0.0


class Health:
    """What is thought of one endpoint, and of what can be asked there."""

    def __init__(self) -> None:
        self._registry = Breaker()
        self._token_server = Breaker()
        self._kinds: LRUCache[tuple[Quota, str], Breaker] = LRUCache(_REMEMBERED)
        self._failing: set[str] = set()  # repositories, since anything was last answered
        self._paused_until: dict[Quota, float] = {}
        self._things_until: LRUCache[tuple[str, str], float] = LRUCache(_REMEMBERED)

    def __repr__(self) -> str:
        return f"<Health: {self._registry}, {len(self._kinds)} in trouble>"

    @property
    def is_up(self) -> bool:
        """Whether the endpoint is thought to work."""
        return self._registry.is_up

    def is_up_for(self, question: Question, now: float) -> bool:
        """Whether this would be answered, for all that is known."""
        breakers = (self._registry, *self._breakers(question))
        return not self.pause_left(question, now) and all(it.is_up for it in breakers)

    def pause_left(self, question: Question, now: float) -> float:
        """Seconds for which it has asked not to be asked this."""
        quota = self._paused_until.get(question.quota, 0.0)
        thing = self._things_until.get((question.repository, question.thing), 0.0)
        return max(0.0, quota - now, thing - now)

    def pauses(self, now: float) -> dict[Quota, float]:
        """The seconds for which it has asked not to be asked, by kind of request."""
        return {kind: until - now for kind, until in self._paused_until.items() if until > now}

    def may_ask(self, question: Question, now: float) -> bool:
        """Whether to ask now. True may make that request the probe: report on it."""
        breakers = self._breakers(question)
        if self.pause_left(question, now) or not all(it.lets_in(now) for it in breakers):
            return False
        for breaker in breakers:
            breaker.enter(now)
        return True

    def may_ping(self, now: float) -> bool:
        """Whether to ask for /v2/ now, which tells of the endpoint alone."""
        if not self._registry.lets_in(now):
            return False
        self._registry.enter(now)
        return True

    def wait(self, question: Question, now: float) -> float:
        """Seconds until `may_ask` may say yes again; 0 if it would now, or when a probe reports."""
        waits = (it.wait(now) for it in self._breakers(question))
        return max(self.pause_left(question, now), *waits)

    def wait_for_ping(self, now: float) -> float:
        """Seconds until `may_ping` may say yes again."""
        return self._registry.wait(now)

    def succeeded(self, question: Question | None) -> None:
        """It has answered this (None: /v2/), and sensibly."""
        if question is None:
            self._registry.succeeded()
            return
        self._host(question).succeeded()
        self._kinds.pop(question.kind, None)
        if question.quota not in {Quota.TOKENS, Quota.PUSHES}:
            self._failing.clear()

    def failed(
        self, question: Question | None, trouble: Trouble, now: float, *, roll: float
    ) -> None:
        """It has not answered this (None: /v2/)."""
        if question is None:
            self._registry.failed(now, roll=roll, grave=True)
            return
        host = self._host(question)
        if trouble is Trouble.UNREACHABLE:
            host.failed(now, roll=roll, grave=True)
            return
        if question.quota is Quota.PUSHES:
            host.probe_told_nothing()
            return
        kind = self._kinds.setdefault(question.kind, Breaker())
        kind.failed(now, roll=roll, grave=trouble is Trouble.SLOW)
        if question.quota is not Quota.TOKENS:
            self._failing.add(question.repository)
        if len(self._failing) >= _TOLERATED:
            host.failed(now, roll=roll, grave=True)
            self._failing.clear()
        else:
            host.probe_told_nothing()

    def pause(self, quota: Quota, until: float) -> None:
        """It has asked not to be asked this kind (429); that is no fault of its own."""
        self._paused_until[quota] = max(self._paused_until.get(quota, 0.0), until)

    def pause_thing(self, question: Question, until: float) -> None:
        """What it redirects to for one thing has asked not to be asked for that."""
        self._things_until[question.repository, question.thing] = until

    def _host(self, question: Question) -> Breaker:
        return self._token_server if question.quota is Quota.TOKENS else self._registry

    def _breakers(self, question: Question) -> list[Breaker]:
        kind = self._kinds.get(question.kind)
        return [self._host(question), *([kind] if kind is not None else ())]
