"""What has come from upstream, and how much of it clients have been served since. Pure.

Bytes are of use once a client has been sent as many of the same blob; what was fetched and never
was, is waste: the rest of a blob of which only a range was wanted, what was prefetched for nobody,
bytes that were not what their digest says. So is what is fetched anew.
"""

from collections import Counter
from dataclasses import dataclass, field

from mirror.history.ports import HOUR, Arrival
from mirror.history.pulls import OpenPull
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository

_SILENT = 60.0  # seconds after which what comes is another download, where nobody knows the size


@dataclass(slots=True, eq=False)
class Coming:
    """A download, as far as it has come. `id` is 0 for a manifest: they are not kept one by one."""

    id: int
    repository: Repository
    digest: Digest
    began: float
    last: float
    size: int | None = None
    fetched: int = 0
    used: int = 0
    sent: int = 0
    resumes: int = 0
    senders: Counter[str] = field(default_factory=Counter)
    told: int = 0  # of what was fetched: what totals have been told of
    unused: list[tuple[int, int]] = field(default_factory=list)  # hour, bytes; the oldest first
    pull: OpenPull | None = None  # that it was fetched for

    def is_over(self, now: float) -> bool:
        """Whether what comes now is another download."""
        if self.size is not None:
            return self.fetched >= self.size
        return now - self.last > _SILENT

    def add(self, endpoint: str, count: int, now: float) -> None:
        """So many bytes have come."""
        self.fetched += count
        self.senders[endpoint] += count
        self.last = now

    def tell(self) -> int:
        """What has come since this was last asked; for now, nobody has been served it."""
        more, self.told = self.fetched - self.told, self.fetched
        if more:
            self.unused.append((hour_of(self.last), more))
            if self.pull is not None:
                self.pull.fetched += more
                self.pull.endpoint = self.endpoint
        return more

    def serve(self, sent: int) -> list[tuple[int, int]]:
        """Clients were sent so many bytes of it; of which hours that many are of use now."""
        self.sent += sent
        left = min(self.told, self.sent) - self.used
        self.used += max(0, left)
        hours: list[tuple[int, int]] = []
        while left > 0 and self.unused:
            hour, there = self.unused.pop(0)
            part = min(left, there)
            hours.append((hour, part))
            left -= part
            if there > part:
                self.unused.insert(0, (hour, there - part))
        return hours

    @property
    def endpoint(self) -> str:
        """Who has sent it; of several, who has sent most comes first."""
        return ", ".join(name for name, _ in self.senders.most_common())

    def kept(self) -> Arrival:
        """As it is kept."""
        return Arrival(
            id=self.id, upstream=self.repository.namespace, repository=str(self.repository),
            digest=str(self.digest), began=self.began, seconds=max(0.0, self.last - self.began),
            size=self.size, fetched=self.fetched, used=self.used, resumes=self.resumes,
            endpoint=self.endpoint,
        )  # fmt: skip


def hour_of(when: float) -> int:
    """The hour that a time is in."""
    return int(when) // HOUR * HOUR
