"""Tells webhooks (`[[notify]]`) of what happens; each for itself, in turn, and behind everything.

A notice waits in its hook's queue, which is bounded: the oldest goes where too many wait. One that
cannot be delivered is tried again, later each time, and given up after an hour; one that is refused
is given up at once. Nothing that answers pulls waits for any of it. What waits when the mirror
stops is lost; a condition that still holds is told of after the next start.
"""

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import aiohttp
import msgspec
from yarl import URL

from mirror.aio.backoff import Backoff
from mirror.aio.tasks import Tasks
from mirror.aio.trust import trust, trust_the_systems
from mirror.config import Notify
from mirror.control.noticing import Notice, Noticing, Seen
from mirror.sources.registry.routes import Route
from mirror.sources.registry.sessions import Sessions
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics, NoticeOutcome

_logger = logging.getLogger(__name__)

_EVERY = 1.0  # seconds between looks
_MOST = 256  # notices that wait for one hook
_GIVEN_UP_AFTER = 3600.0  # seconds
_PATIENCE = aiohttp.ClientTimeout(total=10.0, connect=5.0)
_LONGEST_WAIT = 300.0  # seconds that a hook may ask for (Retry-After)
_DIGITS = 4  # of such a number
_BACKOFF = Backoff(first=1.0, most=120.0)
_ONCE_MORE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class _Refused(Exception):
    """It would be refused as often as it is tried."""


class _NotYet(Exception):
    """It may be taken later; `wait` in seconds, if somebody has said so."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


@dataclass(frozen=True, slots=True)
class _Waiting:
    notice: Notice
    until: float  # by the loop's clock: then it is given up


class Webhook:
    """One of them, and what it has not been told yet."""

    def __init__(
        self,
        config: Notify,
        sessions: Sessions,
        metrics: Metrics,
        *,
        backoff: Backoff = _BACKOFF,
        given_up_after: float = _GIVEN_UP_AFTER,
    ) -> None:
        self._config = config
        self._sessions = sessions
        self._metrics = metrics
        self._backoff = backoff
        self._given_up_after = given_up_after
        self._queue: deque[_Waiting] = deque()
        self._news = asyncio.Event()

    def tell(self, notice: Notice) -> None:
        """Have it told, where that is an occasion for it."""
        if self._config.occasions and notice.occasion not in self._config.occasions:
            return
        if len(self._queue) >= _MOST:
            self._queue.popleft()
            self._count(NoticeOutcome.DROPPED)
        until = asyncio.get_running_loop().time() + self._given_up_after
        self._queue.append(_Waiting(notice, until))
        self._news.set()

    async def deliver_forever(self) -> None:
        """Deliver what comes, in turn."""
        while True:
            await self._news.wait()
            while self._queue:
                await self._deliver(self._queue.popleft())
            self._news.clear()

    async def _deliver(self, waiting: _Waiting) -> None:
        now, failures = asyncio.get_running_loop().time, 0
        while True:
            try:
                await self._send(waiting.notice)
            except _Refused as error:
                self._give_up(waiting.notice, str(error))
                return
            except _NotYet as error:
                failures += 1
                roll = random.random()  # noqa: S311 - for jitter
                wait = max(error.wait, self._backoff.delay(failures, roll=roll))
                if now() + wait > waiting.until:
                    self._give_up(waiting.notice, str(error))
                    return
                if failures == 1:
                    self._log(logging.INFO, "a webhook is told later", waiting.notice, str(error))
                await asyncio.sleep(wait)
            else:
                self._count(NoticeOutcome.DELIVERED)
                return

    async def _send(self, notice: Notice) -> None:
        """Raises _Refused, _NotYet."""
        try:
            address, headers, context = await asyncio.to_thread(self._read)
        except (OSError, ValueError) as error:
            raise _NotYet(_reason(error)) from error  # whoever replaces a file is at it
        content = msgspec.json.encode(notice)
        headers = headers | {"Content-Type": "application/json"}
        route = self._find_route(address)
        proxy_headers = route.http_proxy_headers
        if address.startswith("http:"):
            headers, proxy_headers = headers | proxy_headers, {}
        try:
            async with route.session.post(
                URL(address, encoded=True), data=content, headers=headers, ssl=context,
                timeout=_PATIENCE, allow_redirects=False,
                proxy=route.http_proxy, proxy_headers=proxy_headers or None,
            ) as response:  # fmt: skip
                retry_after = response.headers.get("Retry-After", "")
                _understand(response.status, retry_after if retry_after.isdecimal() else "")
                response.close()  # what it says beside that is nobody's business
        except aiohttp.ClientConnectorCertificateError as error:
            raise _NotYet("its certificate cannot be trusted") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _NotYet(_reason(error)) from error

    def _find_route(self, address: str) -> Route:
        """As the environment says: it is an address of the operator's own, wherever it leads."""
        proxy = self._sessions.proxies.find_for(address, own=None)
        session = self._sessions.any if proxy is None else self._sessions.through(proxy)
        return Route(session, proxy, is_own=True)

    def _read(self) -> tuple[str, dict[str, str], ssl.SSLContext]:
        """Files, anew each time: secrets are replaced. Raises OSError, ValueError."""
        address = self._config.read_address()
        file = self._config.ca_file
        context = trust_the_systems() if file is None else trust(file)
        return address, self._config.read_headers(), context

    def _give_up(self, notice: Notice, why: str) -> None:
        self._count(NoticeOutcome.FAILED)
        self._log(logging.WARNING, "a webhook is not told", notice, why)

    def _count(self, outcome: NoticeOutcome) -> None:
        self._metrics.notices.labels(outcome).inc()

    def _log(self, level: int, message: str, notice: Notice, why: str) -> None:
        facts = fields(hook=self._config.where, what=notice.text, why=why)
        _logger.log(level, message, extra=facts)


def _understand(status: int, retry_after: str) -> None:
    """What a hook's answer means. Raises _Refused, _NotYet."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    told = f"it answered {status}"
    if status in _ONCE_MORE or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        wait = _LONGEST_WAIT if len(retry_after) > _DIGITS else float(retry_after or 0)
        raise _NotYet(told, min(wait, _LONGEST_WAIT))
    raise _Refused(told)  # also where it leads elsewhere: an operator writes that down


def _reason(error: Exception) -> str:
    """Words without the address, which may be a secret."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"it cannot be reached: {error.strerror}"
    if isinstance(error, aiohttp.ClientError | TimeoutError):
        return f"it does not answer: {type(error).__name__}"
    return (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__


class Webhooks:
    """All of them. `look` gives what there is to see; nobody looks where there is no hook.

    `configured` gives those that there are to be now: it may change. One that stays keeps what it
    has not been told yet; one that goes is told nothing more; a new one is told of what holds.
    """

    def __init__(
        self,
        configured: Callable[[], Sequence[Notify]],
        make: Callable[[Notify], Webhook],
        noticing: Noticing,
        look: Callable[[], Awaitable[Seen]],
    ) -> None:
        self._configured = configured
        self._make = make
        self._noticing = noticing
        self._look = look
        self._hooks: list[tuple[Notify, Webhook, asyncio.Task[None]]] = []

    def start(self, tasks: Tasks) -> None:
        """Look, and tell, from now on."""
        tasks.keep(partial(self._watch, tasks), name="notify")

    async def _watch(self, tasks: Tasks) -> None:
        while True:
            new = self._change(tasks)
            if self._hooks:
                seen = await self._look()
                held = self._noticing.list_held(seen.now) if new else []
                self._tell(self._noticing.look(seen), [hook for _, hook, _ in self._hooks])
                self._tell(held, new)
            await asyncio.sleep(_EVERY)

    @staticmethod
    def _tell(notices: Sequence[Notice], hooks: Sequence[Webhook]) -> None:
        for notice in notices:
            for hook in hooks:
                hook.tell(notice)

    def _change(self, tasks: Tasks) -> list[Webhook]:
        """Have those that are configured; gives the new ones."""
        before, self._hooks, new = self._hooks, [], list[Webhook]()
        for config in self._configured():
            stays = next((it for it in before if it[0] == config), None)
            if stays is not None:
                before.remove(stays)
                self._hooks.append(stays)
                continue
            hook = self._make(config)
            task = tasks.create_kept_task(hook.deliver_forever, name="notify")
            self._hooks.append((config, hook, task))
            new.append(hook)
        for _, _, task in before:
            task.cancel()
        return new
