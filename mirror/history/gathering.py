"""What workers and sources tell, made into pulls, totals and arrivals. Pure.

Names cost an attacker nothing: a repository is told apart once something of it was served, so many
new ones an hour and no more than half of them a client's; everything else is lumped together, by
upstream. So are a client's pulls beyond some thousands an hour.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import TypeVar

from cachetools import LRUCache

from mirror.aio.allowance import Allowances
from mirror.history.arrivals import Coming, hour_of
from mirror.history.ports import Arrival, Batch, Known, Pull, Sum
from mirror.history.pulls import OpenPull, OpenPulls
from mirror.oci.digest import Digest, parse_digest
from mirror.oci.reference import Repository
from mirror.telemetry.asked import Answers, Asked, Entry
from mirror.telemetry.traffic import Kind, Result

REPOSITORIES = 65536  # that are known
ARRIVALS = 16384  # of which it is seen that they are served

_HOUR = 3600.0
_NEW_REPOSITORIES = 1000  # an hour
_PULLS = 20_000  # an hour
_STEP = 250  # of what is worked out, or written, at a time
_MOST_TOLD = 16384  # entries that nobody has settled yet
_AHEAD = 60.0  # seconds by which a worker's clock may be before ours
_LONGEST = 7 * 86400.0  # seconds that a request may have taken

_PULLED = frozenset({Kind.TAG, Kind.MANIFEST, Kind.BLOB})
_HITS = frozenset({Result.HIT, Result.REVALIDATED, Result.LINKED, Result.STALE})
_BROUGHT = frozenset({Result.MISS, Result.JOINED})
_FIGURES = tuple(it.name for it in fields(Sum))[3:]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Name = tuple[int, str, str | None]  # hour, upstream, repository


class Gathering:
    """Takes note of everything, cheaply; `settle` works it out.

    `private`: the upstreams where each client's own login decides. `clock` gives seconds since the
    epoch.
    """

    def __init__(
        self,
        known: Known,
        *,
        private: Collection[str],
        tells_clients: bool,
        clock: Callable[[], float],
    ) -> None:
        self._private = private
        self._tells_clients = tells_clients
        self._clock = clock
        self._pulls = OpenPulls(known.next_pull)
        self._next_arrival = known.next_arrival
        self._known: LRUCache[str, None] = LRUCache(REPOSITORIES)
        for name in known.repositories:
            self._known[name] = None
        self._arrivals: LRUCache[tuple[str, Digest], Coming] = LRUCache(ARRIVALS)
        for arrival in reversed(known.unused):
            self._remember(arrival)
        self._new_names: Allowances[str] = Allowances(_NEW_REPOSITORIES // 2, _HOUR, clock)
        self._all_names: Allowances[None] = Allowances(_NEW_REPOSITORIES, _HOUR, clock)
        self._new_pulls: Allowances[str] = Allowances(_PULLS // 10, _HOUR, clock)
        self._all_pulls: Allowances[None] = Allowances(_PULLS, _HOUR, clock)
        self._told: list[Entry] = []
        self._changed_pulls: dict[int, OpenPull] = {}
        self._changed_arrivals: dict[Coming, None] = {}
        self._sums: dict[_Name, dict[str, int]] = {}

    def note(self, entries: Sequence[Entry]) -> None:
        """Clients have asked a worker for these."""
        room = _MOST_TOLD - len(self._told)
        self._told += entries[:room]

    def coming(
        self,
        repository: Repository,
        digest: Digest,
        endpoint: str,
        *,
        size: int | None,
        is_resumed: bool,
        is_manifest: bool,
    ) -> Callable[[int], None]:
        """Bytes of a digest are about to come from an endpoint; to be told how many, each time."""
        now = self._clock()
        key = repository.namespace, digest
        arrival = self._arrivals.get(key)
        if arrival is None or arrival.is_over(now):
            number = 0 if is_manifest else self._next_arrival
            self._next_arrival += not is_manifest
            arrival = self._arrivals[key] = Coming(number, repository, digest, now, now)
        found = arrival
        if size is not None:
            found.size = size
        found.resumes += is_resumed

        def came(count: int) -> None:
            found.add(endpoint, count, self._clock())
            self._changed_arrivals[found] = None

        return came

    def settle(self) -> Iterator[None]:
        """Work out what has been told; others have their turn between steps."""
        for arrival in [*self._changed_arrivals]:
            self._tell_of(arrival)
            if not arrival.id or str(arrival.repository) not in self._known:
                del self._changed_arrivals[arrival]
        told, self._told = self._told, []
        # A request that began before another is told of by another worker, perhaps later.
        told.sort(key=lambda it: it[1].began)
        for number, (asked, answers) in enumerate(told):
            self._settle(asked, self._sane(answers))
            if number % _STEP == _STEP - 1:
                yield

    def take(self) -> Batch:
        """What has changed since, as far as it is settled; falsy at the end of it."""
        return Batch(
            [self._kept(it) for it in _some(self._changed_pulls).values()],
            [Sum(*name, *figures.values()) for name, figures in _some(self._sums).items()],
            [it.kept() for it in _some(self._changed_arrivals)],
        )

    def _tell_of(self, arrival: Coming) -> None:
        more = arrival.tell()
        name = str(arrival.repository)
        where = hour_of(arrival.last), arrival.repository.namespace
        self._add((*where, self._admitted(name, "")), fetched=more, unused=more)
        if arrival.pull is not None:
            self._changed_pulls[arrival.pull.id] = arrival.pull

    def _settle(self, asked: Asked, answers: Answers) -> None:
        name = None if asked.repository is None else str(asked.repository)
        repository = name
        if name is not None and name not in self._known:
            repository = self._admitted(name, asked.client) if asked.is_served else None
        hour = hour_of(answers.ended), asked.upstream, repository
        self._add(
            hour, served=answers.sent,
            hits=answers.count * (asked.result in _HITS),
            misses=answers.count * (asked.is_served and asked.result in _BROUGHT),
            failed=answers.count * (not asked.is_served),
        )  # fmt: skip
        arrival = None
        if asked.digest is not None:
            arrival = self._arrivals.get((asked.upstream, asked.digest))
        if arrival is not None and answers.sent:
            self._serve(arrival, answers.sent, hour)
        if asked.kind in _PULLED:
            pull = self._pull_of(asked, repository, answers)
            if arrival is not None and asked.result in _BROUGHT and asked.is_served:
                _claim(arrival, pull)

    def _pull_of(self, asked: Asked, repository: str | None, answers: Answers) -> OpenPull:
        pull = self._pulls.find(asked, repository, answers)
        if pull is None and repository is not None and not self._may_begin(asked.client):
            repository = None
            pull = self._pulls.find(asked, None, answers)
        if pull is None:
            pull = self._pulls.begin(asked, repository, answers)
            self._add((hour_of(answers.ended), asked.upstream, repository), pulls=1)
        elif pull.lacks_manifest and asked.kind is not Kind.BLOB and answers.began <= pull.began:
            pull.begin_with(asked)
        pull.add(asked, answers)
        self._changed_pulls[pull.id] = pull
        return pull

    def _serve(self, arrival: Coming, sent: int, hour: _Name) -> None:
        for when, used in arrival.serve(sent):
            self._add(hour, used=used)
            name = self._admitted(str(arrival.repository), "")
            self._add((when, arrival.repository.namespace, name), unused=-used)
            if arrival.id:
                self._changed_arrivals[arrival] = None

    def _may_begin(self, client: str) -> bool:
        return self._new_pulls.take(client) and self._all_pulls.take(None)

    def _admitted(self, name: str, client: str) -> str | None:
        """The repository, if it is told apart; something of it has come or was served."""
        if name not in self._known:
            if not (self._new_names.take(client) and self._all_names.take(None)):
                return None
            self._known[name] = None
        return name

    def _add(self, name: _Name, **figures: int) -> None:
        sums = self._sums.setdefault(name, dict.fromkeys(_FIGURES, 0))
        for figure, amount in figures.items():
            sums[figure] += amount

    def _kept(self, pull: OpenPull) -> Pull:
        is_private = pull.asked.upstream in self._private
        return pull.told(tells_client=self._tells_clients, is_private=is_private)

    def _sane(self, answers: Answers) -> Answers:
        """A worker's word on when it was, as far as that can be."""
        ended = min(answers.ended, self._clock() + _AHEAD)
        began = min(max(answers.began, ended - _LONGEST), ended)
        return Answers(answers.count, answers.sent, began, ended)

    def _remember(self, arrival: Arrival) -> None:
        """What an earlier process has seen come, and nobody has been served yet."""
        upstream, _, path = (arrival.repository or "").partition("/")
        if not path:
            return
        ended = arrival.began + arrival.seconds
        digest, left = parse_digest(arrival.digest), arrival.fetched - arrival.used
        self._arrivals[upstream, digest] = Coming(
            arrival.id, Repository(upstream, path), digest, arrival.began, ended, arrival.size,
            arrival.fetched, arrival.used, arrival.used, arrival.resumes,
            _senders(arrival), arrival.fetched, [(hour_of(ended), left)],
        )  # fmt: skip


def _some(changed: dict[_Key, _Value]) -> dict[_Key, _Value]:
    """Take some out of it: so many at a time hold up nobody."""
    return {key: changed.pop(key) for key in [*islice(changed, _STEP)]}


def _claim(arrival: Coming, pull: OpenPull) -> None:
    """What has come was fetched for the first who missed it."""
    if arrival.pull is None:
        arrival.pull = pull
        pull.fetched += arrival.told
        pull.endpoint = arrival.endpoint or pull.endpoint


def _senders(arrival: Arrival) -> Counter[str]:
    names: Iterable[str] = arrival.endpoint.split(", ")
    return Counter(dict.fromkeys(names, 1))
