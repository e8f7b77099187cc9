"""One URL at which content can be had: authorized, watched, its answers understood."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from random import Random

import aiohttp
from yarl import URL

from mirror.aio.slots import Slots, Urgency
from mirror.aio.tasks import Tasks
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.errors import Denied, ErrorCode, Refused, RegistryError, Unavailable
from mirror.oci.reference import Repository
from mirror.sources.registry.auth import Authorizer
from mirror.sources.registry.elsewhere import Elsewhere, registry_that_answered
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.headers import field_value, parse_quota
from mirror.sources.registry.heads import Heads
from mirror.sources.registry.health import Health, Question, Quota, Trouble
from mirror.sources.registry.reading import Senseless
from mirror.sources.registry.status import (
    Closed,
    OfStorage,
    parse_errors,
    raise_for_status,
    trouble_of,
)
from mirror.sources.registry.token_servers import TokenServers
from mirror.telemetry.log import fields
from mirror.telemetry.metrics import Metrics

_logger = logging.getLogger(__name__)

_LONGEST_REFUSAL = 2**14  # bytes of a body that is passed on
_PAUSE = 5.0  # seconds for which a 429 without Retry-After is respected
_PROBE_INTERVAL = 0.2  # seconds, at least
_LONGEST_PAUSE = 6 * 3600.0  # seconds; Docker Hub's window
_LONGEST_PAUSE_OF_STORAGE = 300.0  # seconds; the next link may lead elsewhere
_MOST_CHALLENGES = 2  # to one question: the registry's, and that of the one it redirects to

_QUOTAS = {
    "tag": Quota.MANIFESTS,
    "manifest": Quota.MANIFESTS,
    "blob": Quota.BLOBS,
    "tags": Quota.LISTS,
    "referrers": Quota.REFERRERS,
}
_CHECKS = {("HEAD", "tag"), ("HEAD", "manifest")}


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
        self.heads = Heads(clock)
        self.answered = 0  # questions, ever
        self.trouble: str | None = None  # the last that was seen, for people
        self.quota: tuple[int | None, int | None] = (None, None)  # pulls: allowed, and left
        self.token_servers = TokenServers(config, exchange)
        self.label = label
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._tasks = tasks
        refused = metrics.upstream_credential_failures.labels(label.upstream, label.endpoint)
        self._authorizer = Authorizer(
            config, exchange, tasks=tasks, clock=clock, admit=self._require_tokens,
            note_refused=refused.inc,
        )  # fmt: skip
        self._elsewhere = Elsewhere(partial(
            Authorizer, exchange=exchange, tasks=tasks, clock=clock, admit=self._require_tokens,
            note_refused=lambda: None,
        ))  # fmt: skip
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

    def is_up_for(self, quota: Quota, repository: str) -> bool:
        """Whether it would answer this kind of request, for all that is known."""
        return self.health.is_up_for(Question(quota, repository), self._clock())

    def wait(self, quota: Quota, repository: str) -> float:
        """Seconds until it is worth asking this kind of request again; 0 if it is now."""
        return self.health.wait(Question(quota, repository), self._clock())

    def _require(self, question: Question) -> None:
        """See that a request is worth sending now. Raises Closed."""
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
        what = self.config.host if not self.health.is_up else "what was asked for there"
        raise Closed(f"{what} is known to be down")

    def _require_tokens(self, repository: str) -> None:
        self._require(Question(Quota.TOKENS, repository))

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
        """Ask for `/v2/<repository>/<path>` and yield a response of 2xx, 304 or 416.

        `body_for`: a blob's bytes are asked for, which wait until others' are through for as long
        as that takes. Everything else is a question: it waits for no body, and not for long.

        Raises:
            Missing: 404.
            Denied: 401 in the end, or 403, by the registry or its token server.
            Refused: Any other 4xx.
            Unavailable: Anything else, or nothing; also a refusal by the storage that a registry,
                which has let us in, redirects to. `Closed`: it is known to be of no use to ask.
        """
        quota = Quota.CHECKS if (method, kind) in _CHECKS else _QUOTAS[kind]
        question = Question(quota, scope.repository.name, path)
        self._require(question)
        there = self.config.name_there(scope.repository.name)
        url = URL(f"{self.config.url}/v2/{there}/{path}", encoded=True)
        async with AsyncExitStack() as stack:
            if body_for is None:
                await stack.enter_async_context(self._slot_for_question())
            else:
                await stack.enter_async_context(self._body_slots.take(body_for))
                await stack.enter_async_context(self._slots.take(body_for))
            yield await stack.enter_async_context(
                self._authorized(method, url, scope, headers, question, kind=kind)
            )

    async def ask_in(self, authorization: str) -> None:
        """Ask for `/v2/` as a client would, with its own authorization ("": none).

        Raises:
            Missing, Denied, Refused, Unavailable: As `ask`.
        """
        question = Question(Quota.LOGINS, "")
        self._require(question)
        url = URL(f"{self.config.url}/v2/", encoded=True)
        sent = _sendable(authorization)
        async with (
            self._slot_for_question(),
            self._send(question, "GET", url, {}, sent, kind="login") as response,
        ):
            await self._understand(question, response, url)

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
        self,
        method: str,
        url: URL,
        scope: Scope,
        headers: dict[str, str],
        question: Question,
        *,
        kind: str,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        at, sent = url, await self._first_header(scope)
        challenged = set[URL]()
        while True:
            async with self._send(question, method, at, headers, sent, kind=kind) as response:
                origin, better = response.url.origin(), None
                if origin not in challenged and len(challenged) < _MOST_CHALLENGES:
                    better = await self._better_header(response, at, scope, sent, question)
                if not self._is_personal(scope):
                    at = registry_that_answered(response, at, question.thing)
                if better is None:
                    await self._understand(question, response, at)
                    yield response
                    return
                challenged.add(origin)
                sent = better

    @asynccontextmanager
    async def _send(
        self,
        question: Question,
        method: str,
        url: URL,
        headers: dict[str, str],
        authorization: str | None,
        *,
        kind: str,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if authorization:
            headers = headers | {"Authorization": authorization}
        async with AsyncExitStack() as stack:
            with self._watched(question):
                response = await stack.enter_async_context(
                    self.exchange.send(method, url, headers, kind=kind)
                )
            yield response

    async def _first_header(self, scope: Scope) -> str | None:
        if self._is_personal(scope):
            return _sendable(scope.authorization or "")
        with self._watched(Question(Quota.TOKENS, scope.repository.name)):
            return await self._authorizer.known(scope.repository.name)

    def _is_personal(self, scope: Scope) -> bool:
        """Whether the client's own authorization goes here: not to an accelerator of others."""
        return scope.authorization is not None and self.config.is_authority

    async def _better_header(
        self,
        response: aiohttp.ClientResponse,
        asked: URL,
        scope: Scope,
        sent: str | None,
        question: Question,
    ) -> str | None:
        """What to send instead to who has answered with a challenge, if that helps."""
        if response.status != HTTPStatus.UNAUTHORIZED or self._is_personal(scope):
            return None
        origin = response.url.origin()
        is_own = origin == URL(self.config.url).origin()
        own = (self._authorizer, scope.repository.name) if is_own else None
        if (found := own or self._elsewhere.authorizer_for(response, question.thing)) is None:
            return None
        challenges = response.headers.getall("WWW-Authenticate", [])
        await self.exchange.drain(response)  # so that the connection serves again
        with self._watched(Question(Quota.TOKENS, scope.repository.name)):
            known = sent if origin == asked.origin() else None
            return await found[0].answer(found[1], challenges, known)

    async def _understand(
        self, question: Question, response: aiohttp.ClientResponse, url: URL
    ) -> None:
        """Raise what the status of the answer to `url` means; take note of what else it tells."""
        self._note_quota(response)
        try:
            with self._watched(question):
                raise_for_status(response, url)
                self._succeeded(question)
        except Denied as denial:
            self.token_servers.note(denial.challenges)
            raise
        except Refused as refusal:
            with suppress(RegistryError):
                document = await self.exchange.read(response, limit=_LONGEST_REFUSAL)
                refusal.errors = tuple(parse_errors(document, without=self.config.prefix))
            raise

    def _note_quota(self, response: aiohttp.ClientResponse) -> None:
        metrics, names = self._metrics, (self.label.upstream, self.label.endpoint)
        limit = parse_quota(response.headers.get("ratelimit-limit"))
        remaining = parse_quota(response.headers.get("ratelimit-remaining"))
        if limit is not None:
            metrics.ratelimit_limit.labels(*names).set(limit)
        if remaining is not None:
            metrics.ratelimit_remaining.labels(*names).set(remaining)
        if limit is not None or remaining is not None:
            self.quota = limit, remaining

    @contextmanager
    def _watched(self, question: Question | None) -> Iterator[None]:
        """Learn from what goes wrong inside the block."""
        received, answered = self.exchange.received, self.answered
        try:
            yield
        except RegistryError as error:
            # An endpoint that sends bytes to others meanwhile is there: the line is full.
            is_late = isinstance(error, Unavailable) and error.timed_out
            if not (is_late and self.exchange.received > received):
                self.note(question, error, is_alone=self.answered > answered)
            raise

    def _succeeded(self, question: Question | None) -> None:
        if question is None or question.quota is not Quota.TOKENS:
            self.answered += 1
            if not self.health.is_up:
                _logger.info("upstream is back", extra=fields(endpoint=self.config.url))
        self.health.succeeded(question)
        self._up.set(1 if self.health.is_up else 0)

    def note(self, question: Question | None, error: RegistryError, *, is_alone: bool) -> None:
        """Draw conclusions from a refusal, or from a request that failed.

        `is_alone`: others have been answered meanwhile.
        """
        if isinstance(error, (Senseless, Closed)):
            return
        trouble = trouble_of(error, is_alone=is_alone)
        if trouble is not None:
            self.trouble = str(error)
            self._failed(question, trouble)
        else:
            self._succeeded(question)  # an answer, if not the one that was hoped for
        if question is not None and isinstance(error, Unavailable):
            self._note_pause(question, error)

    def _note_pause(self, question: Question, error: Unavailable) -> None:
        now = self._clock()
        if isinstance(error, OfStorage):
            if error.retry_after is not None:
                pause = min(error.retry_after, _LONGEST_PAUSE_OF_STORAGE)
                self.health.pause_thing(question, now + pause)
        elif error.code is ErrorCode.TOOMANYREQUESTS:
            pause = _PAUSE if error.retry_after is None else min(error.retry_after, _LONGEST_PAUSE)
            self.health.pause(question.quota, now + pause)
            _logger.warning(
                "upstream limits our rate",
                extra=fields(
                    endpoint=self.config.url,
                    pause_seconds=pause,
                    requests=question.quota.name.lower(),
                ),
            )

    def note_fallback(self) -> None:
        """It has said what a tag means, or which there are, in place of those who may."""
        self._metrics.upstream_fallback_answers.labels(self.label.upstream, self.name).inc()

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
                extra=fields(endpoint=self.config.url, why=self.trouble or "a body broke"),
            )
            self._tasks.keep(self._probe_until_up, name="probe")
        elif (
            question is not None
            and was_up_for
            and not self.health.is_up_for(question, self._clock())
        ):
            _logger.warning(
                "upstream does not answer a kind of request; others go on",
                extra=fields(
                    endpoint=self.config.url,
                    requests=question.quota.name.lower(),
                    repository=question.repository,
                ),
            )
            _ = self._tasks.create_task(self._ping(), name="ping")

    async def _probe_until_up(self) -> None:
        """Find out when it is back, also in a night in which nobody pulls."""
        while not self.health.is_up:
            await asyncio.sleep(max(self.health.wait_for_ping(self._clock()), _PROBE_INTERVAL))
            if self.health.may_ping(self._clock()):  # else a client's request is the probe
                await self._ping()

    async def _ping(self) -> None:
        """Find out whether it is there at all."""
        url = URL(f"{self.config.url}/v2/", encoded=True)
        with suppress(RegistryError), self._watched(None):
            async with self.exchange.send("GET", url, {}, kind="ping") as response:
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise Unavailable("still down", status_seen=response.status)
                if not self.health.is_up:
                    self._succeeded(None)


def _sendable(authorization: str) -> str:
    """A client's own, as far as it can be a header of ours. Raises Denied."""
    if authorization and not field_value(authorization):
        raise Denied(ErrorCode.UNAUTHORIZED, "no registry takes such an authorization")
    return authorization
