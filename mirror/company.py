"""What a mirror has of its company: of the others that are one cache with it, or of none.

`mirror.joining` is several of them, and is loaded only where `[shared]` asks for it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mirror.aio.tasks import Tasks
from mirror.pull.forget import Forgettable
from mirror.pull.pins import Pinning
from mirror.records.alone import Alone
from mirror.records.ports import Fleet, Records
from mirror.records.sqlite import SqliteRecords
from mirror.records.wishes import Wishes
from mirror.sources.ports import NOBODY, NoteLimits
from mirror.sources.registry.registry import Registry
from mirror.telemetry.metrics import Metrics


class Company(Protocol):
    """What comes of having others, or none."""

    @property
    def records(self) -> Records:
        """What registries have said, to any of them."""

    @property
    def wishes(self) -> Wishes:
        """What operators have asked for, at any of them."""

    @property
    def fleet(self) -> Fleet:
        """What they do for each other."""

    @property
    def limits(self) -> NoteLimits:
        """Is told what endpoints say of being asked too often."""

    @property
    def common(self) -> Any:
        """`mirror.shared.opening.Common`, or None."""

    async def start(
        self,
        work: Tasks,
        *,
        forget: Callable[[Forgettable], None],
        pinning: Pinning,
        registries: Mapping[str, Registry],
        metrics: Metrics,
    ) -> None:
        """Tell the others and hear them from now on. Raises StoreError."""

    def troubles(self) -> Sequence[tuple[str, str]]:
        """What does not work as it should, and why."""


class ByItself:
    """There are no others. Implements `Company`."""

    def __init__(self, own: SqliteRecords) -> None:
        self.records: Records = own
        self.wishes: Wishes = own.wishes
        self.fleet: Fleet = Alone()
        self.limits: NoteLimits = NOBODY
        self.common = None

    async def start(
        self,
        work: Tasks,
        *,
        forget: Callable[[Forgettable], None],
        pinning: Pinning,
        registries: Mapping[str, Registry],
        metrics: Metrics,
    ) -> None:
        """There is nobody to tell."""

    def troubles(self) -> Sequence[tuple[str, str]]:
        """There can be none."""
        return ()
