"""The condition of an endpoint: what is learnt from its answers, told, and found out by asking.

`health` decides what it closes; here it is fed, logged and measured, and an endpoint that is down
is probed until it is back.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from random import Random

import aiohttp
from yarl import URL

from mirror.aio.tasks import Tasks
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.errors import ErrorCode, RegistryError, Unavailable
from mirror.sources.ports import NOBODY, NoteLimits
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.headers import parse_quota, parse_window
from mirror.sources.registry.health import Health, Question, Quota, Trouble
from mirror.sources.registry.reading import Senseless
from mirror.sources.registry.status import Closed, OfStorage, trouble_of
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_PAUSE = 5.0  # seconds for which a 429 without Retry-After is respected
_PROBE_INTERVAL = 0.2  # seconds, at least
_PAUSED_FOR = 86400.0  # seconds; nobody knows: longer than anybody waits
_LONGEST_PAUSE = 6 * 3600.0  # seconds; Docker Hub's window
_LONGEST_PAUSE_OF_STORAGE = 300.0  # seconds; the next link may lead elsewhere


class Condition:
    """What is known of one endpoint. `limits` is told what it says of being asked too often."""

    def __init__(
        self,
        config: EndpointConfig,
        label: Label,
        exchange: Exchange,
        *,
        tasks: Tasks,
        metrics: Metrics,
        clock: Callable[[], float],
        random: Random,
        limits: NoteLimits = NOBODY,
    ) -> None:
        self.health = Health()
        self.answered = 0  # questions, ever
        self.trouble: str | None = None  # the last that was seen, for people
        self.quota: tuple[int | None, int | None] = (None, None)  # pulls: allowed, and left
        self.quota_until: float | None = None  # epoch seconds: all of it is there by then
        self._config = config
        self._label = label
        self._exchange = exchange
        self._tasks = tasks
        self._metrics = metrics
        self._clock = clock
        self._random = random
        self._limits = limits
        self._up = metrics.upstream_up.labels(label.upstream, label.endpoint)
        self._up.set(1)
        self._doubting: asyncio.Task[None] | None = None
        self._is_probing = False
        self.paused_since: float | None = None  # by an operator, in seconds since the epoch
        self._paused = metrics.upstream_paused.labels(label.upstream, label.endpoint)
        self.is_retired = False  # it is configured no longer: nobody finds out whether it is back

    def pause(self, since: float | None) -> None:
        """Ask it nothing, by an operator's word; None: ask it again."""
        self.paused_since = since
        self._paused.set(0 if since is None else 1)
        if since is None and not self.health.is_up:
            self._probe()

    @property
    def is_paused(self) -> bool:
        """Whether nothing may be asked, whatever it would answer."""
        return self.paused_since is not None

    def is_up_for(self, quota: Quota, repository: str) -> bool:
        """Whether it would answer this kind of request, for all that is known."""
        question = Question(quota, repository)
        return not self.is_paused and self.health.is_up_for(question, self._clock())

    def wait(self, quota: Quota, repository: str) -> float:
        """Seconds until it is worth asking this kind of request again; 0 if it is now."""
        if self.is_paused:
            return _PAUSED_FOR
        return self.health.wait(Question(quota, repository), self._clock())

    def require(self, question: Question) -> None:
        """See that a request is worth sending now. Raises Closed."""
        self.require_not_paused()
        now = self._clock()
        if self.health.may_ask(question, now):
            return
        pause = self.health.pause_left(question, now)
        if pause:
            raise Closed(
                "upstream limits the rate of requests",
                code=ErrorCode.TOOMANYREQUESTS,
                retry_after=pause,
            )
        what = self._config.host if not self.health.is_up else "what was asked for there"
        raise Closed(f"{what} is known to be down")

    def require_not_paused(self) -> None:
        """See that an operator lets anything be asked. Raises Closed."""
        if self.is_paused:
            raise Closed(f"{self._config.host} is paused by an operator of this mirror")

    def require_tokens(self, repository: str) -> None:
        """See that a token is worth asking for now. Raises Closed."""
        self.require(Question(Quota.TOKENS, repository))

    def note_quota(self, response: aiohttp.ClientResponse) -> None:
        """What an answer tells of how many pulls are left (Docker Hub)."""
        metrics, names = self._metrics, (self._label.upstream, self._label.endpoint)
        limit = parse_quota(response.headers.get("ratelimit-limit"))
        remaining = parse_quota(response.headers.get("ratelimit-remaining"))
        if limit is not None:
            metrics.ratelimit_limit.labels(*names).set(limit)
        if remaining is not None:
            metrics.ratelimit_remaining.labels(*names).set(remaining)
        if limit is not None or remaining is not None:
            window = parse_window(response.headers.get("ratelimit-remaining"))
            self._note_window(remaining, window)
            self.quota = limit, remaining
            self._limits.told_quota(*names, limit, remaining)

    def _note_window(self, remaining: int | None, window: float | None) -> None:
        """Upstream tells how long pulls count, and not since when.

        A window that is seen for the first time, or in which there are more pulls left than a
        moment ago, has begun by now.
        """
        if window is None:
            return
        now, before = self._exchange.clock(), self.quota[1]
        is_new = before is not None and remaining is not None and remaining > before
        if self.quota_until is None or is_new or now >= self.quota_until:
            self.quota_until = now + window

    def hear_quota(self, limit: int | None, remaining: int | None) -> None:
        """Another mirror was told how many pulls are left."""
        metrics, names = self._metrics, (self._label.upstream, self._label.endpoint)
        if limit is not None:
            metrics.ratelimit_limit.labels(*names).set(limit)
        if remaining is not None:
            metrics.ratelimit_remaining.labels(*names).set(remaining)
        self.quota = limit, remaining

    def hear_pause(self, quota: Quota, seconds: float) -> None:
        """Another mirror was told not to ask this for so long."""
        self.health.pause(quota, self._clock() + min(seconds, _LONGEST_PAUSE))

    @contextmanager
    def watching(self, question: Question | None) -> Iterator[None]:
        """Learn from what goes wrong inside the block."""
        received, answered = self._exchange.received, self.answered
        try:
            yield
        except RegistryError as error:
            # An endpoint that sends bytes to others meanwhile is there: the line is full.
            is_late = isinstance(error, Unavailable) and error.timed_out
            if not (is_late and self._exchange.received > received):
                self._note(question, error, others_answered=self.answered > answered)
            raise

    def succeeded(self, question: Question | None) -> None:
        """It has answered this (None: `/v2/`), and sensibly."""
        if question is None or question.quota is not Quota.TOKENS:
            self.answered += 1
            if not self.health.is_up:
                _logger.info("upstream is back", extra=fields(endpoint=self._config.url))
        self.health.succeeded(question)
        self._up.set(1 if self.health.is_up else 0)

    def _note(
        self, question: Question | None, error: RegistryError, *, others_answered: bool
    ) -> None:
        """Draw conclusions from a refusal, or from a request that failed.

        `others_answered`: others have been answered meanwhile.
        """
        if isinstance(error, (Senseless, Closed)):
            return
        # A registry that is silent may be busy with what it was sent.
        is_push = question is not None and question.quota is Quota.PUSHES
        trouble = trouble_of(error, others_answered=others_answered or is_push)
        if trouble is not None:
            self.trouble = str(error)
            self._failed(question, trouble)
        else:
            self.succeeded(question)  # an answer, if not the one that was hoped for
        if question is not None and isinstance(error, Unavailable):
            self._note_pause(question, error)

    def _note_pause(self, question: Question, error: Unavailable) -> None:
        now = self._clock()
        if isinstance(error, OfStorage):
            if error.retry_after is not None:
                pause = min(error.retry_after, _LONGEST_PAUSE_OF_STORAGE)
                self.health.pause_thing(question, now + pause)
        elif error.code is ErrorCode.TOOMANYREQUESTS:
            if error.retry_after is None:
                error.retry_after = _PAUSE
            pause = min(error.retry_after, _LONGEST_PAUSE)
            self.health.pause(question.quota, now + pause)
            self._limits.paused(
                self._label.upstream, self._label.endpoint, question.quota.name.lower(), pause
            )
            _logger.warning(
                "upstream limits our rate",
                extra=fields(
                    endpoint=self._config.url,
                    pause_seconds=pause,
                    requests=question.quota.name.lower(),
                ),
            )

    def body_broke(self, repository: str) -> None:
        """The body of a blob has stalled, or brought nothing at all."""
        self._failed(Question(Quota.BLOBS, repository), Trouble.ERROR)

    def _failed(self, question: Question | None, trouble: Trouble) -> None:
        was_up = self.health.is_up
        was_up_for = question is None or self.health.is_up_for(question, self._clock())
        self.health.failed(question, trouble, self._clock(), roll=self._random.random())
        self._up.set(1 if self.health.is_up else 0)
        if was_up and not self.health.is_up:
            _logger.warning(
                "upstream is down",
                extra=fields(endpoint=self._config.url, why=self.trouble or "a body broke"),
            )
            self._probe()
        elif (
            question is not None
            and was_up_for
            and not self.health.is_up_for(question, self._clock())
        ):
            _logger.warning(
                "upstream does not answer a kind of request; others go on",
                extra=fields(
                    endpoint=self._config.url,
                    requests=question.quota.name.lower(),
                    repository=question.repository,
                ),
            )
            self._doubt()
        elif (
            trouble is Trouble.BROKEN
            and question is not None
            and question.quota is not Quota.TOKENS
        ):
            self._doubt()

    def _doubt(self) -> None:
        """Have it found out whether it is there at all, if nobody is about it."""
        if not self._is_left_alone and (self._doubting is None or self._doubting.done()):
            self._doubting = self._tasks.create_task(self._ping(), name="ping")

    @property
    def _is_left_alone(self) -> bool:
        return self.is_retired or self.is_paused

    def _probe(self) -> None:
        """Have it found out when it is back, if nobody is about it."""
        if not self._is_probing and not self._is_left_alone:
            self._is_probing = True
            self._tasks.keep(self._probe_until_up, name="probe")

    async def _probe_until_up(self) -> None:
        """Also in a night in which nobody pulls."""
        while not (self.health.is_up or self._is_left_alone):
            await asyncio.sleep(max(self.health.wait_for_ping(self._clock()), _PROBE_INTERVAL))
            if (
                self.health.may_ping(self._clock()) and not self._is_left_alone
            ):  # else a client's request is the probe
                await self._ping()
        self._is_probing = False

    async def _ping(self) -> None:
        """Find out whether it is there at all."""
        url = URL(f"{self._config.url}/v2/", encoded=True)
        with suppress(RegistryError), self.watching(None):
            async with self._exchange.send("GET", url, {}, kind="ping") as response:
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise Unavailable("still down", status_seen=response.status)
                if not self.health.is_up:
                    self.succeeded(None)
