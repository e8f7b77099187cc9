"""One URL at which content can be had: authorized, its answers understood.

What they tell of the endpoint itself is for its `condition`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from random import Random

import aiohttp
from yarl import URL

from mirror.aio.slots import Slots, Urgency
from mirror.aio.tasks import Tasks
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.digest import Digest
from mirror.oci.errors import (
    Denied,
    ErrorCode,
    Missing,
    Refused,
    RegistryError,
    Unavailable,
)
from mirror.oci.reference import Repository
from mirror.sources.ports import NOBODY, NoteLimits
from mirror.sources.registry.auth import Authorizer
from mirror.sources.registry.condition import Condition
from mirror.sources.registry.elsewhere import Elsewhere, registry_that_answered
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.headers import field_value
from mirror.sources.registry.heads import Heads
from mirror.sources.registry.health import Question, Quota
from mirror.sources.registry.intake import Intake
from mirror.sources.registry.outgoing import Outgoing
from mirror.sources.registry.status import (
    parse_errors,
    raise_for_status,
    rate_limited,
)
from mirror.sources.registry.token_servers import TokenServers
from mirror.sources.registry.tokens import Access
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.mismatches import Mismatch

_LONGEST_REFUSAL = 2**14  # bytes of a body that is passed on
_KEPT = 4  # one of so many connections for bodies is for clients that have none
_MOST_ANSWERS = 3  # to refusals of one question: the registry's, and of the one it redirects to
_REFUSALS = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_REFUSALS_OF_STRANGERS = _REFUSALS | {HTTPStatus.NOT_FOUND}

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
    None stands for the mirror's credentials. `is_push`: it is also to be pushed to; `source` is
    another repository there, from which a blob is to be mounted.
    """

    repository: Repository
    authorization: str | None = None
    is_push: bool = False
    source: str | None = None

    @property
    def access(self) -> Access:
        """What a token for it is to allow."""
        return Access(self.repository.name, self.is_push, self.source)


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
        limits: NoteLimits = NOBODY,
    ) -> None:
        self.config = config
        self.exchange = exchange
        self.condition = Condition(
            config, label, exchange, tasks=tasks, metrics=metrics, clock=clock, random=random,
            limits=limits,
        )  # fmt: skip
        self.ranges = True  # until it ignores one
        self.heads = Heads(clock)  # of manifests
        self.heads_of_blobs = Heads(clock)
        self.intake = Intake()
        self.token_servers = TokenServers(config, exchange)
        self.label = label
        self._metrics = metrics
        refused = metrics.upstream_credential_failures.labels(label.upstream, label.endpoint)
        make = partial(
            Authorizer, exchange=exchange, tasks=tasks, clock=clock,
            admit=self.condition.require_tokens,
        )  # fmt: skip
        self._authorizer = make(config, note_refused=refused.inc)
        metrics.upstream_credentials_refused.labels(label.upstream, label.endpoint).set_function(
            lambda: 0 if self.credentials_trouble is None else 1
        )
        self._elsewhere = Elsewhere(partial(make, note_refused=lambda: None))
        self._watching = (
            None
            if config.password_file is None
            else tasks.create_kept_task(self._authorizer.watch, name="credentials")
        )
        # The last slot is not for bodies: a question must not wait until a layer is through.
        most = config.max_connections
        self._slots = Slots(most)
        for_bodies = most and max(1, most - 1)
        self._body_slots = Slots(for_bodies, kept=(for_bodies or 0) // _KEPT)

    def __repr__(self) -> str:
        return f"<Endpoint {self.config.url}: {self.condition.health}>"

    @property
    def credentials_trouble(self) -> str | None:
        """Why the mirror's own credentials are of no use here by now, if that is so."""
        return self._authorizer.trouble

    def retire(self) -> None:
        """Another takes its place; requests under way go on with the credentials there are."""
        self.condition.is_retired = True
        if self._watching is not None:
            self._watching.cancel()

    @property
    def name(self) -> str:
        """As metrics call it."""
        return self.label.endpoint

    def credentials_version(self) -> object:
        """Changes when the mirror's credentials here have."""
        return self._authorizer.credentials_version()

    def is_up_for(self, quota: Quota, repository: str) -> bool:
        """Whether it would answer this kind of request, for all that is known."""
        return self.condition.is_up_for(quota, repository)

    def wait(self, quota: Quota, repository: str) -> float:
        """Seconds until it is worth asking this kind of request again; 0 if it is now."""
        return self.condition.wait(quota, repository)

    def body_broke(self, repository: str) -> None:
        """The body of a blob has stalled, or brought nothing at all."""
        self.condition.body_broke(repository)

    def note_fallback(self) -> None:
        """It has said what a tag means, or which there are, in place of those who may."""
        self._metrics.upstream_fallback_answers.labels(self.label.upstream, self.name).inc()

    def note_mismatch(self, digest: Digest) -> None:
        """It has sent something else under this digest."""
        self._metrics.mismatches.note(Mismatch(self.label.upstream, str(digest), (self.name,)))

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
        if scope.is_push:
            quota = Quota.PUSHES
        question = Question(quota, scope.repository.name, path)
        self.condition.require(question)
        url = self.address(scope, path)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                self._slot_for_question() if body_for is None else self._slot_for_body(body_for)
            )
            yield await stack.enter_async_context(
                self._authorized(method, url, scope, headers, question, kind=kind)
            )

    def address(self, scope: Scope, path: str) -> URL:
        """Of what is at `path` in a repository."""
        there = self.config.name_there(scope.repository.name)
        return URL(f"{self.config.url}/v2/{there}/{path}", encoded=True)

    @asynccontextmanager
    async def push(
        self,
        method: str,
        url: URL,
        scope: Scope,
        headers: dict[str, str],
        *,
        kind: str,
        body: Outgoing | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask for something that changes what is at `url`, which the registry may have named.

        Yields a response of 2xx or 3xx. Nobody is told who we are but the registry itself.

        Raises:
            Missing, Denied, Refused, Unavailable: As `ask`. Unavailable, too, where it was let in
                no longer and `body` has begun: what is asked next goes with what convinces now.
        """
        thing = url.path.rpartition(f"/{self.config.name_there(scope.repository.name)}/")[2]
        question = Question(Quota.PUSHES, scope.repository.name, thing)
        self.condition.require(question)
        slot = self._slot_for_question()
        if body is not None:
            slot = self._slot_for_body(Urgency.of_client())
        sending = self._authorized(method, url, scope, headers, question, kind=kind, body=body)
        async with slot, sending as response:
            yield response

    @asynccontextmanager
    async def _slot_for_body(self, urgency: Urgency) -> AsyncIterator[None]:
        async with self._body_slots.take(urgency), self._slots.take(urgency):
            yield

    async def ask_in(self, authorization: str) -> None:
        """Ask for `/v2/` as a client would, with its own authorization ("": none).

        Raises:
            Missing, Denied, Refused, Unavailable: As `ask`.
        """
        question = Question(Quota.LOGINS, "")
        self.condition.require(question)
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
                await stack.enter_async_context(
                    self._slots.take(Urgency.of_client(), within=within)
                )
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
        body: Outgoing | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        at, sent = url, None
        if url.origin() == URL(self.config.url).origin():
            sent = await self._first_header(scope)
        answered = list[URL]()
        while True:
            sending = self._send(question, method, at, headers, sent, kind=kind, body=body)
            async with sending as response:
                origin, better = response.url.origin(), None
                is_new = origin not in answered or (sent or "").startswith("Basic ")
                if is_new and len(answered) < _MOST_ANSWERS:
                    better = await self._better_header(response, at, scope, sent, question)
                if not self._is_personal(scope):
                    at = registry_that_answered(response, at, question.thing)
                if better is None:
                    await self._understand(question, response, at)
                    if sent:
                        self._authorizer.convinced(scope.access, sent)
                    yield response
                    return
                if body is not None and not body.may_repeat:
                    raise Unavailable(
                        "upstream has let us in no longer", status_seen=response.status
                    )
                answered.append(origin)
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
        body: Outgoing | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if authorization:
            headers = headers | {"Authorization": authorization}
        within = self.exchange.stall_timeout if question.quota is Quota.PUSHES else None
        async with AsyncExitStack() as stack:
            with self.condition.watching(question):
                response = await stack.enter_async_context(
                    self.exchange.send(method, url, headers, kind=kind, body=body, within=within)
                )
            yield response

    async def _first_header(self, scope: Scope) -> str | None:
        if self._is_personal(scope):
            return _sendable(scope.authorization or "")
        try:
            with self.condition.watching(Question(Quota.TOKENS, scope.repository.name)):
                return await self._authorizer.known(scope.access)
        except Unavailable:
            if self._authorizer.has_challenged(scope.access):
                raise
            return None  # a token server in trouble is no trouble of a repository that wants none

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
        """What to send instead to who has refused, if that helps."""
        refusals = _REFUSALS if sent else _REFUSALS_OF_STRANGERS
        if response.status not in refusals or self._is_personal(scope):
            return None
        origin = response.url.origin()
        is_own = origin == URL(self.config.url).origin()
        own = (self._authorizer, scope.access) if is_own else None
        challenges = response.headers.getall("WWW-Authenticate", [])
        if response.status != HTTPStatus.UNAUTHORIZED or not challenges:
            if own is None:
                return None
            with self.condition.watching(Question(Quota.TOKENS, scope.repository.name)):
                if sent:
                    return await own[0].instead_of(own[1], sent, response.status)
                return await own[0].introduce(own[1])
        if (found := own or self._elsewhere.authorizer_for(response, question.thing)) is None:
            return None
        await self.exchange.drain(response)  # so that the connection serves again
        with self.condition.watching(Question(Quota.TOKENS, scope.repository.name)):
            known = sent if origin == asked.origin() else None
            return await found[0].answer(found[1], challenges, known)

    async def _understand(
        self, question: Question, response: aiohttp.ClientResponse, url: URL
    ) -> None:
        """Raise what the status of the answer to `url` means; take note of what else it tells."""
        self.condition.note_quota(response)
        try:
            with self.condition.watching(question):
                raise_for_status(response, url)
                self.condition.succeeded(question)
        except (Denied, Missing, Refused) as refusal:
            if isinstance(refusal, Denied):
                self.token_servers.note(refusal.challenges)
            if isinstance(refusal, (Denied, Refused)) or question.quota is Quota.PUSHES:
                errors = await self._errors_in(response)
                if any(it.get("code") == ErrorCode.TOOMANYREQUESTS for it in errors):
                    with self.condition.watching(question):
                        raise rate_limited(response) from refusal  # whatever the status is
                if not isinstance(refusal, Denied) or question.quota is Quota.PUSHES:
                    refusal.errors = errors
            raise

    async def _errors_in(self, response: aiohttp.ClientResponse) -> tuple[dict[str, object], ...]:
        """What a refusal says in its body, if it can be had."""
        try:
            document = await self.exchange.read(response, limit=_LONGEST_REFUSAL)
        except RegistryError:
            return ()
        return tuple(parse_errors(document, without=self.config.prefix))


def _sendable(authorization: str) -> str:
    """A client's own, as far as it can be a header of ours. Raises Denied."""
    if authorization and not field_value(authorization):
        raise Denied(ErrorCode.UNAUTHORIZED, "no registry takes such an authorization")
    return authorization
