"""One HTTP exchange with a registry, its token server or its storage.

Redirects are followed by hand: `Authorization` stays with the origin that it was meant for, the
presigned address is sent as it came, and https leads to http only where the operator said so.
Addresses of others' choice are judged where the connection is made, after resolution, and lead
inside (`reach`) only from an endpoint that is inside itself, or where the operator said so.
aiohttp's exceptions end here (`breakage`).
"""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
)
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp
from yarl import URL

from mirror.aio.reading import LARGE
from mirror.aio.slots import Slots, Urgency
from mirror.aio.trust import trust, trust_the_systems
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.digest import Chunk
from mirror.oci.errors import Unavailable
from mirror.sources.ports import TooSlow
from mirror.sources.registry.arrival import Line
from mirror.sources.registry.breakage import decoding, receiving, sending
from mirror.sources.registry.certificate import Certificate
from mirror.sources.registry.connections import Send, Trip, close_idle, over_a_living_one
from mirror.sources.registry.encoding import PIECE, Decoder
from mirror.sources.registry.outgoing import Body, Outgoing
from mirror.sources.registry.reading import Broken, Senseless
from mirror.sources.registry.receiver import arriving
from mirror.sources.registry.redirects import MOST_REDIRECTS, leads_on, redirected
from mirror.sources.registry.request import Form, Request
from mirror.sources.registry.routes import Routes, host_of
from mirror.sources.registry.sessions import Sessions
from mirror.sources.registry.throttle import Throttle
from mirror.sources.targets import Sendable
from mirror.telemetry.metrics import Metrics

_DRAINED = 2**16  # bytes
_DRAINED_WITHIN = 0.5  # seconds; a connection is worth no more
_REPEATABLE = frozenset({"GET", "HEAD"})  # sent once more where the first stays silent
_SLOWEST = 2**14  # bytes a second of an answer that is read whole, beyond `stall_timeout`
_HEDGED_AFTER = 1.0  # seconds of silence of a connection that was used before; or a share
_HEDGED_SHARE = 0.3  # of the time that an answer has
_ASKED_AGAIN = "again"  # the status of a request that was asked again over another connection
_LARGE_AT_ONCE = 2  # answers in memory; a list of tags takes three times its size until it is read
_READ_BUFFER = 2**18  # bytes; few wake-ups for a fast link, and a bound for a fast upstream
_ANSWERED_WITHIN = 3  # times `stall_timeout`, once a registry has all of a body


_Send = Callable[..., Coroutine[Any, Any, aiohttp.ClientResponse]]


@dataclass(frozen=True, slots=True)
class Label:
    """Which endpoint, in metrics: both names come from the configuration."""

    upstream: str
    endpoint: str


class Exchange:
    """HTTP, as one endpoint needs it; `clock` gives seconds since the epoch."""

    def __init__(
        self,
        config: EndpointConfig,
        label: Label,
        *,
        sessions: Sessions,
        connect_timeout: float,
        stall_timeout: float,
        metrics: Metrics,
        line: Line | None = None,
        clock: Callable[[], float] = time.time,  # noqa: TID251 - as others have it
    ) -> None:
        self._config = config
        self._line = line or Line(least=0, window=stall_timeout)
        self._label = label
        self._routes = Routes(config, sessions)
        self._metrics = metrics
        self._bytes = metrics.upstream_bytes.labels(label.upstream, label.endpoint)
        self._slow = metrics.upstream_slow_bodies.labels(label.upstream, label.endpoint)
        self.received = 0  # bytes, ever
        self.clock = clock
        self.certificate = Certificate(URL(config.url).origin())
        self.answer_timeout = connect_timeout
        self.stall_timeout = stall_timeout
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_timeout, sock_read=stall_timeout
        )
        self._body_timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout)
        self.throttle = Throttle(config.max_bandwidth, clock)
        self._throttle_out = Throttle(config.max_bandwidth, clock)
        self._large = Slots(_LARGE_AT_ONCE)
        self._ssl = trust(config.ca_file) if config.ca_file else trust_the_systems()

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        *,
        kind: str,
        form: Form | None = None,
        body: Outgoing | None = None,
        within: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield the final response, whatever its status.

        `form` is the body of a POST; it holds secrets, and follows no redirect. `body` follows one
        where it can be sent again. What has no body has `within` seconds for its answer
        (None: `answer_timeout`).

        Raises:
            Unavailable: No (sensible) response, or whoever brings the body could not (its `error`).
        """
        request = Request(method, headers, kind, form, body, within or self.answer_timeout)
        try:
            response = await self._follow(url, request)
            try:
                yield response
            finally:
                if response.content.at_eof() and request.may_serve_again:
                    response.release()  # the connection serves again
                else:
                    response.close()
        finally:
            if body is not None:
                await body.end()

    def outgoing(
        self,
        content: AsyncIterable[Sendable] | bytes,
        *,
        length: int | None = None,
        patience: int = _ANSWERED_WITHIN,
        is_alone: bool = False,
    ) -> Outgoing:
        """A body to send from here; once it is there, the answer has so many stalls' time."""
        stall = self.stall_timeout
        return Outgoing(
            content, length=length, patience=stall, answer=stall * patience, is_alone=is_alone
        )

    @asynccontextmanager
    async def reading(
        self, response: aiohttp.ClientResponse, *, limit: int
    ) -> AsyncIterator[bytes]:
        """The same as `read` gives, for use inside the block.

        What turns out to be large waits for its turn. Else there would be as many of them in
        memory as clients ask for, and reading them would leave no time for anything else.
        """
        async with AsyncExitStack() as held:

            async def wait() -> None:
                await held.enter_async_context(self._large.take(Urgency.of_client()))

            yield await self.read(response, limit=limit, before_large=wait)

    async def read(
        self,
        response: aiohttp.ClientResponse,
        *,
        limit: int,
        before_large: Callable[[], Awaitable[None]] | None = None,
    ) -> bytes:
        """The whole body, decoded where it is encoded.

        `before_large` is waited for before it is more than `LARGE`.

        Raises:
            Unavailable: It is larger than `limit` bytes, breaks, or drips: clients wait for all of
                it, on a connection that others need.
        """
        if (response.content_length or 0) > limit:
            raise Senseless(f"upstream's answer is larger than {limit} bytes")
        content = BytesIO()  # gives its bytes without a copy, which of a large list is a long hold
        decoder = Decoder(response.headers.get("Content-Encoding"))
        now = asyncio.get_running_loop().time
        due = now() + self.stall_timeout
        with receiving(response.url):
            async with asyncio.timeout_at(due) as patience:

                async def wait() -> None:
                    nonlocal due, before_large
                    if before_large is not None:
                        began = now()
                        patience.reschedule(None)
                        await before_large()
                        due += now() - began
                        before_large = None

                async for chunk in response.content.iter_any():
                    self.count(len(chunk))
                    await self._decode(decoder, chunk, content, limit=limit, before_large=wait)
                    patience.reschedule(due + content.tell() / _SLOWEST)
        with decoding():
            content.write(decoder.end())
        return content.getvalue()

    async def _decode(
        self,
        decoder: Decoder,
        chunk: bytes,
        content: BytesIO,
        *,
        limit: int,
        before_large: Callable[[], Awaitable[None]],
    ) -> None:
        """Add what a chunk stands for. Raises Senseless."""
        with decoding():
            for piece in decoder.feed(chunk):
                if content.tell() + len(piece) > LARGE:
                    await before_large()
                content.write(piece)
                if content.tell() > limit:
                    raise Senseless(f"upstream's answer is larger than {limit} bytes")
                if len(piece) == PIECE:
                    await asyncio.sleep(0)  # a little that stands for much: others have a turn

    async def chunks(
        self, response: aiohttp.ClientResponse, urgency: Urgency | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """The body as it arrives; each chunk stays as it is until the next but one is asked for.

        Raises:
            Unavailable: It stalls or breaks. `TooSlow`: it drips.
        """
        urgency, line, now = urgency or Urgency(), self._line, asyncio.get_running_loop().time
        with receiving(response.url), line.arriving(now()) as arrival:
            asked_at = now()
            async for chunk in arriving(response, patience=self.stall_timeout):
                self.count(len(chunk))
                if arrival.drips(len(chunk), now() - asked_at, now()):
                    self._slow.inc()
                    raise TooSlow(
                        f"{host_of(response.url)} sends less than fill.min_rate",
                        round(line.least * line.window),
                    )
                await self.throttle.take(len(chunk), urgency)
                yield chunk
                asked_at = now()

    async def drain(self, response: aiohttp.ClientResponse) -> None:
        """Read past a small body that nobody wants, so that the connection serves again."""
        if response.content_length is None or response.content_length > _DRAINED:
            return  # until it ends, somebody waits
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_DRAINED_WITHIN):
                await response.content.read()

    def count(self, size: int) -> None:
        """Note `size` body bytes received."""
        self.received += size
        self._bytes.inc(size)

    async def _follow(self, url: URL, request: Request) -> aiohttp.ClientResponse:
        status, asked = 0, url
        for _ in range(MOST_REDIRECTS + 1):
            try:
                with sending(url):
                    response = await self._send_once(url, request)
            except Unavailable as error:
                error.status_seen = status or None  # the registry is there, if its storage is not
                raise
            status = response.status
            location = response.headers.get("Location")
            if not (location and request.may_follow and leads_on(request.method, status)):
                return response
            try:
                await self.drain(response)
                target = redirected(
                    asked, url, location, config=self._config, kind=request.kind, status=status
                )
            finally:
                request.let_go(response)
            if target.origin() != url.origin():
                request.forget_who_asks()
            url = target
        raise Unavailable("upstream redirects in circles", status_seen=status)

    async def _send_once(self, url: URL, request: Request) -> aiohttp.ClientResponse:
        route = await self._routes.find(url)
        session, headers, method = route.session, request.headers, request.method
        proxy_headers = route.http_proxy_headers
        if url.scheme == "http":
            headers, proxy_headers = headers | proxy_headers, {}

        tries = 0

        async def send(trip: Trip, data: Form | Body | None = None) -> aiohttp.ClientResponse:
            nonlocal tries
            tries += 1
            return await session.request(
                method, url, headers=headers, allow_redirects=False, ssl=self._ssl,
                timeout=self._timeout if request.body is None else self._body_timeout,
                read_bufsize=_READ_BUFFER, trace_request_ctx=trip, data=data,
                # Connections that have it in their key are kept apart from the others.
                server_hostname=url.raw_host if request.is_alone else None,
                proxy=route.http_proxy, proxy_headers=proxy_headers or None,
            )  # fmt: skip

        began = time.monotonic()
        status = "none"
        try:
            # A client is waiting, and wants to be sent elsewhere rather than to wait in vain.
            with route.explained(url):
                if request.body is not None:
                    response = await self._send_body(url, request.body, send, session)
                else:
                    async with asyncio.timeout(request.within):
                        response = await self._send_question(url, request, send, session)
            status = str(response.status)
            route.check(response)
            self._routes.note(route, response)
            self.certificate.note(url, response)
            self._metrics.upstream_seconds.labels(
                self._label.upstream, self._label.endpoint, request.kind
            ).observe(time.monotonic() - began)
        finally:
            self._count_requests(request.kind, method, status, tries)
        return response

    async def _send_question(
        self, url: URL, request: Request, send: _Send, session: aiohttp.ClientSession
    ) -> aiohttp.ClientResponse:
        """Only what may be repeated is (RFC 9110, 9.2.2): not a form."""
        if request.form is not None:
            return await send(Trip(), request.form)
        patience = min(_HEDGED_AFTER, self.answer_timeout * _HEDGED_SHARE)
        is_repeatable = request.method in _REPEATABLE
        return await over_a_living_one(
            send, session, url, patience=patience if is_repeatable else None
        )

    async def _send_body(
        self, url: URL, body: Outgoing, send: _Send, session: aiohttp.ClientSession
    ) -> aiohttp.ClientResponse:
        """Raises Broken: it stalls, or is answered before it has come to its end."""

        async def begin(trip: Trip) -> aiohttp.ClientResponse:
            return await send(trip, body.begin(deadline, self._keep_to_bandwidth_out))

        deadline = asyncio.timeout(None)
        try:
            async with deadline:
                response = await _over_its_kind(begin, body, session, url)
                body.answered()
        except TimeoutError as error:
            if not deadline.expired():
                raise  # there is no connection
            raise Broken(f"{host_of(url)} takes no more", timed_out=True) from error
        except aiohttp.ClientConnectionError as error:
            if body.error is None:
                raise
            raise Senseless("what was to be sent could not be had") from error
        if response.ok and not body.is_over:
            response.close()
            raise Broken(f"{host_of(url)} answers before it has everything")
        return response

    async def _keep_to_bandwidth_out(self, size: int) -> None:
        """Wait until `size` bytes fit into `max_bandwidth`, which each way of the line has."""
        await self._throttle_out.take(size, Urgency())

    def _count_requests(self, kind: str, method: str, status: str, tries: int) -> None:
        """The last of them had this status; the others were over kept connections that are dead."""
        for counted, number in ((status, 1), (_ASKED_AGAIN, tries - 1)):
            if number > 0:
                self._metrics.upstream_requests.labels(
                    self._label.upstream, self._label.endpoint, kind, method, counted
                ).inc(number)


async def _over_its_kind(
    begin: Send, body: Outgoing, session: aiohttp.ClientSession, url: URL
) -> aiohttp.ClientResponse:
    """Send a body over a connection that suits it."""
    if body.is_alone:
        close_idle(session, url, is_alone=True)
    elif body.is_whole:
        return await over_a_living_one(begin, session, url, patience=None)
    return await begin(Trip())
