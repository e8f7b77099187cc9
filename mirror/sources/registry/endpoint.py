"""One URL at which content can be had: authorized, watched, its answers understood."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from random import Random

import aiohttp
from yarl import URL

from mirror.aio.slots import Slots, Urgency
from mirror.aio.tasks import Tasks
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.errors import Denied, ErrorCode, RegistryError, Unavailable
from mirror.oci.reference import Repository
from mirror.sources.registry.auth import Authorizer
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.headers import field_value, parse_quota
from mirror.sources.registry.health import Health
from mirror.sources.registry.reading import Senseless
from mirror.sources.registry.status import raise_for_status
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_PAUSE = 5.0  # seconds for which a 429 without Retry-After is respected
_PROBE_INTERVAL = 0.2  # seconds, at least
_LONGEST_PAUSE = 6 * 3600.0  # seconds; Docker Hub's window
_SERVER_ERROR = 500  # and above


@dataclass(frozen=True, slots=True)
class Scope:
    """Where content is asked for, and on whose authority.

    `authorization` is the client's own, for an `access = "client"` upstream ("" if it sent none);
    None stands for the mirror's credentials.
    """

    repository: Repository
    authorization: str | None = None


class Endpoint:
    """A registry's HTTP API at one address."""

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
    ) -> None:
        self.config = config
        self.exchange = exchange
        self.health = Health()
        self.ranges = True  # until it ignores one
        self.label = label
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._tasks = tasks
        refused = metrics.upstream_credential_failures.labels(label.upstream, label.endpoint)
        self._authorizer = Authorizer(
            config, exchange, tasks=tasks, clock=clock, note_refused=refused.inc
        )
        if config.password_file is not None:
            tasks.keep(self._authorizer.watch, name="credentials")
        self._up = metrics.upstream_up.labels(label.upstream, label.endpoint)
        self._up.set(1)
        # The last slot is not for bodies: a question must not wait until a layer is through.
        most = config.max_connections
        self._slots = Slots(most)
        self._body_slots = Slots(most and max(1, most - 1))

    def __repr__(self) -> str:
        return f"<Endpoint {self.config.url}: {self.health}>"

    @property
    def name(self) -> str:
        """As metrics call it."""
        return self.label.endpoint

    def credentials_version(self) -> object:
        """Changes when the mirror's credentials here have."""
        return self._authorizer.credentials_version()

    def may_ask(self) -> bool:
        """Whether a request is worth sending now."""
        return self.health.may_ask(self._clock())

    def why_not(self) -> Unavailable:
        """Why `may_ask` says no."""
        pause = self.health.pause_left(self._clock())
        if pause:
            return Unavailable(
                "upstream limits the rate of requests",
                code=ErrorCode.TOOMANYREQUESTS,
                retry_after=pause,
            )
        return Unavailable(f"{self.config.host} is known to be down")

    def wait(self) -> float:
        """Seconds until it is worth asking again; 0 if it is now."""
        return self.health.wait(self._clock())

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        path: str,
        scope: Scope,
        headers: dict[str, str],
        *,
        kind: str,
        body_for: Urgency | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for `/v2/<repository>/<path>` and yield a response of 2xx, 304, 405 or 416.

        `body_for`: a blob's bytes are asked for, which wait until others' are through for as long
        as that takes. Everything else is a question: it waits for no body, and not for long.

        Raises:
            Missing: 404.
            Denied: 401 in the end, or 403, by the registry or its token server.
            Unavailable: Anything else, or nothing; also a refusal by the storage that a registry,
                which has let us in, redirects to.
        """
        url = URL(f"{self.config.url}/v2/{scope.repository.name}/{path}", encoded=True)
        async with AsyncExitStack() as stack:
            if body_for is None:
                await stack.enter_async_context(self._slot_for_question())
            else:
                await stack.enter_async_context(self._body_slots.take(body_for))
                await stack.enter_async_context(self._slots.take(body_for))
            yield await stack.enter_async_context(
                self._authorized(method, url, scope, headers, kind=kind)
            )

    @asynccontextmanager
    async def _slot_for_question(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                within = self.exchange.answer_timeout
                await stack.enter_async_context(self._slots.take(Urgency(), within=within))
            except TimeoutError as error:
                raise Unavailable(
                    f"every connection to {self.config.host} is in use", timed_out=True
                ) from error
            yield

    @asynccontextmanager
    async def _authorized(
        self, method: str, url: URL, scope: Scope, headers: dict[str, str], *, kind: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        sent = await self._first_header(scope)
        async with self._send(method, url, headers, sent, kind) as response:
            better = await self._better_header(response, url, scope, sent)
            if better is None:
                self._understand(response, url)
                yield response
                return
        async with self._send(method, url, headers, better, kind) as response:
            self._understand(response, url)
            yield response

    @asynccontextmanager
    async def _send(
        self, method: str, url: URL, headers: dict[str, str], authorization: str | None, kind: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if authorization:
            headers = headers | {"Authorization": authorization}
        async with AsyncExitStack() as stack:
            with self._watched():
                response = await stack.enter_async_context(
                    self.exchange.send(method, url, headers, kind=kind)
                )
            yield response

    async def _first_header(self, scope: Scope) -> str | None:
        if self._is_personal(scope):
            if scope.authorization and not field_value(scope.authorization):
                raise Denied(ErrorCode.UNAUTHORIZED, "no registry takes such an authorization")
            return scope.authorization
        with self._watched():
            return await self._authorizer.known(scope.repository.name)

    def _is_personal(self, scope: Scope) -> bool:
        """Whether the client's own authorization goes here: not to an accelerator of others."""
        return scope.authorization is not None and self.config.tags

    async def _better_header(
        self, response: aiohttp.ClientResponse, url: URL, scope: Scope, sent: str | None
    ) -> str | None:
        is_refused = response.status == HTTPStatus.UNAUTHORIZED
        is_challenge = is_refused and response.url.origin() == url.origin()
        if not is_challenge or self._is_personal(scope):
            return None
        challenges = response.headers.getall("WWW-Authenticate", [])
        with self._watched():
            await self.exchange.drain(response)  # so that the connection serves again
            return await self._authorizer.answer(scope.repository.name, challenges, sent)

    def _understand(self, response: aiohttp.ClientResponse, url: URL) -> None:
        """Raise what the status of the answer to `url` means; take note of what else it tells."""
        self._note_quota(response)
        with self._watched():
            raise_for_status(response, url)
            self._succeeded()

    def _note_quota(self, response: aiohttp.ClientResponse) -> None:
        for header, gauge in (
            ("ratelimit-limit", self._metrics.ratelimit_limit),
            ("ratelimit-remaining", self._metrics.ratelimit_remaining),
        ):
            number = parse_quota(response.headers.get(header))
            if number is not None:
                gauge.labels(self.label.upstream, self.label.endpoint).set(number)

    def _watched(self) -> "_Watch":
        return _Watch(self)

    def _succeeded(self) -> None:
        if not self.health.is_up:
            _logger.info("upstream is back", extra=fields(endpoint=self.config.url))
        self.health.succeeded()
        self._up.set(1)

    def note(self, error: RegistryError) -> None:
        """Draw conclusions from a refusal, or from a request that failed."""
        if isinstance(error, Senseless):
            return
        if isinstance(error, Unavailable) and error.status_seen is None:
            self._failed(grave=True)
        elif isinstance(error, Unavailable) and (error.status_seen or 0) >= _SERVER_ERROR:
            self._failed(grave=False)
        else:
            self._succeeded()  # an answer, if not the one that was hoped for
        if isinstance(error, Unavailable) and error.code is ErrorCode.TOOMANYREQUESTS:
            pause = _PAUSE if error.retry_after is None else min(error.retry_after, _LONGEST_PAUSE)
            self.health.pause(self._clock() + pause)
            _logger.warning(
                "upstream limits our rate",
                extra=fields(endpoint=self.config.url, pause_seconds=pause),
            )

    def broke(self, *, timed_out: bool) -> None:  # noqa: ARG002 - both weigh the same
        """A body of its has stalled, or brought nothing at all."""
        self._failed(grave=False)

    def _failed(self, *, grave: bool) -> None:
        was_up = self.health.is_up
        self.health.failed(self._clock(), roll=self._random.random(), grave=grave)
        if was_up and not self.health.is_up:
            _logger.warning("upstream is down", extra=fields(endpoint=self.config.url))
            self._tasks.keep(self._probe_until_up, name="probe")
        self._up.set(1 if self.health.is_up else 0)

    async def _probe_until_up(self) -> None:
        """Find out when it is back, also in a night in which nobody pulls."""
        url = URL(f"{self.config.url}/v2/", encoded=True)
        while not self.health.is_up:
            await asyncio.sleep(max(self.wait(), _PROBE_INTERVAL))
            if not self.may_ask():
                continue  # a client's request is the probe
            with suppress(RegistryError), self._watched():
                async with self.exchange.send("GET", url, {}, kind="ping") as response:
                    if response.status >= _SERVER_ERROR:
                        raise Unavailable("still down", status_seen=response.status)
                    self._succeeded()


class _Watch:
    """Tells the endpoint how it fared with what goes wrong inside the block."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._received = endpoint.exchange.received

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RegistryError) and not self._is_congestion(error):
            self._endpoint.note(error)

    def _is_congestion(self, error: RegistryError) -> bool:
        """An endpoint that sends bytes to others meanwhile is there: the line is full."""
        is_late = isinstance(error, Unavailable) and error.timed_out
        return is_late and self._endpoint.exchange.received > self._received
