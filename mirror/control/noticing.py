"""What happens that somebody should be told of: read from what the overview tells. Pure.

Most of it is a condition, which begins and ends; each is told of when it begins ("trouble"), and
when it is over ("well"). Nobody is told twice of the same.

    occasion          begins where                              is over where
    upstream          an endpoint is down                       it is up, paused, or not configured
    credentials       the mirror's own are refused, or cannot   others are there, or as above
                      be had
    disk              less than min_free is free, or a          neither
                      download could not be written on
    quota             of the pulls that upstream allows, less   a fifth or more is left
                      than a tenth is left
    certificate       one ends within two weeks (of a short     none of that file does
                      life: a fifth of it)
    digest-mismatch   bytes are not what their digest says      at once: it is no condition
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from cachetools import TTLCache

from mirror.aio.lives import Life
from mirror.config.notify import Occasion
from mirror.control import models
from mirror.control.units import size
from mirror.telemetry.mismatches import Mismatch

_SCARCE, _ENOUGH = 0.1, 0.2  # of the pulls that upstream allows: as the alert, and away from it
_SOON = 14  # days before a certificate ends, unless its life is short: as the alert
_REMEMBERED = 1024  # wrong digests that were told of
_REMEMBERED_FOR = 3600.0  # seconds


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What a webhook is sent, as JSON. The same `subject` has trouble, and is well again."""

    id: str
    occasion: Occasion
    state: Literal["trouble", "well"]
    subject: str
    text: str  # a sentence for people
    at: float  # seconds since the epoch
    mirror: str  # whose: the name of its host
    upstream: str | None = None
    endpoint: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to look at, of one moment. `lives`: of certificates, by setting."""

    now: float
    endpoints: Sequence[models.Endpoint]
    store: models.Store
    disk_trouble: str | None
    lives: Mapping[str, Life]
    mismatches: Sequence[Mismatch]


@dataclass(frozen=True, slots=True)
class _Condition:
    """A condition that holds; by occasion and subject it is the same one."""

    occasion: Occasion
    subject: str
    text: str
    over: str  # the sentence for when it is
    upstream: str | None = None
    endpoint: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.occasion, self.subject


class Noticing:
    """Tells what has begun and what is over since the last look.

    `mirror` is what this one is called; `new_id` makes an id that nothing else has.
    """

    def __init__(
        self,
        *,
        mirror: str,
        new_id: Callable[[], str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mirror = mirror
        self._new_id = new_id
        self._holding: dict[tuple[str, str], _Condition] = {}
        self._told: TTLCache[Mismatch, None] = TTLCache(
            _REMEMBERED, _REMEMBERED_FOR, timer=monotonic
        )

    def look(self, seen: Seen) -> list[Notice]:
        """What is to be told of."""
        found = {it.key: it for it in self._conditions(seen)}
        begun = [it for key, it in found.items() if key not in self._holding]
        over = [it for key, it in self._holding.items() if key not in found]
        self._holding = found
        return [
            *(self._notice(seen.now, it, "trouble") for it in begun),
            *(self._notice(seen.now, it, "well") for it in over),
            *(self._lie(seen.now, it) for it in seen.mismatches if self._is_new(it)),
        ]

    def list_held(self, now: float) -> list[Notice]:
        """What was told of that is not over, for somebody who is new."""
        return [self._notice(now, it, "trouble") for it in self._holding.values()]

    def _conditions(self, seen: Seen) -> Iterator[_Condition]:
        for one in seen.endpoints:
            subject, where = f"{one.upstream} {one.url}", (one.upstream, one.name)
            if not one.is_up and one.paused_since is None:
                text = f"{one.url} ({one.upstream}) is down: {one.trouble or 'no connection'}"
                over = f"{one.url} ({one.upstream}) is back"
                yield _Condition("upstream", subject, text, over, *where)
            if one.credentials_trouble is not None and one.paused_since is None:
                name = f"{one.url} ({one.upstream})"
                text = f"{name} does not let the mirror in: {one.credentials_trouble}"
                over = f"{name} lets the mirror in again"
                yield _Condition("credentials", subject, text, over, *where)
            if self._is_scarce(one, subject) and one.quota is not None:
                text = f"{one.quota.remaining} of {one.quota.limit} pulls are left at {one.url}"
                over = f"there are pulls enough again at {one.url}"
                yield _Condition("quota", subject, text, over, *where)
        store = seen.store
        if (why := _trouble_of_disk(store, seen.disk_trouble)) is not None:
            text, over = f"{store.root}: {why}", f"{store.root} has room again"
            yield _Condition("disk", store.root, text, over)
        for setting, says, when in certificates_that_end(seen.lives, seen.now):
            text = f"a certificate in {setting} {says}: {when}"
            over = f"the certificates in {setting} are good for a while"
            yield _Condition("certificate", setting, text, over)

    def _is_scarce(self, one: models.Endpoint, subject: str) -> bool:
        if one.quota is None or not one.quota.limit or one.quota.remaining is None:
            return False
        bound = _ENOUGH if ("quota", subject) in self._holding else _SCARCE
        return one.quota.remaining < bound * one.quota.limit

    def _is_new(self, mismatch: Mismatch) -> bool:
        is_new = mismatch not in self._told
        self._told[mismatch] = None
        return is_new

    def _notice(self, now: float, it: _Condition, state: Literal["trouble", "well"]) -> Notice:
        return Notice(
            id=self._new_id(), occasion=it.occasion, state=state, subject=it.subject,
            text=it.text if state == "trouble" else it.over, at=now, mirror=self._mirror,
            upstream=it.upstream, endpoint=it.endpoint,
        )  # fmt: skip

    def _lie(self, now: float, it: Mismatch) -> Notice:
        senders = ", ".join(it.senders) or it.upstream
        return Notice(
            id=self._new_id(), occasion="digest-mismatch", state="trouble",
            subject=f"{it.upstream} {it.digest}",
            text=f"{senders} ({it.upstream}) sent bytes that are not {it.digest}; none was kept",
            at=now, mirror=self._mirror, upstream=it.upstream,
            endpoint=it.senders[0] if len(it.senders) == 1 else None, digest=it.digest,
        )  # fmt: skip


def certificates_that_end(lives: Mapping[str, Life], now: float) -> Iterator[tuple[str, str, str]]:
    """Of those that do, or have: the setting that names the file, which of the two, and when."""
    for setting, life in lives.items():
        if life.is_nearly_over(now, days=_SOON):
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(life.ends))
            yield f"server.{setting}", "has ended" if life.ends <= now else "ends", when


def _trouble_of_disk(store: models.Store, disk_trouble: str | None) -> str | None:
    if store.free < store.min_free:
        return f"{size(store.free)} are free, and store.min_free is {size(store.min_free)}"
    return disk_trouble
