"""One HTTP exchange with a registry, its token server or its storage.

Redirects are followed by hand: `Authorization` stays with the origin that it was meant for, the
presigned address is sent as it came, and https leads to http only where the operator said so.
Addresses of others' choice are judged where the connection is made, after resolution, and lead
inside (`reach`) only from an endpoint that is inside itself, or where the operator said so.
aiohttp's exceptions end here.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import aiohttp
from yarl import URL

from mirror.aio.slots import Urgency
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.digest import Chunk
from mirror.oci.errors import RegistryError, Unavailable
from mirror.sources.ports import TooSlow
from mirror.sources.registry.addresses import parse_location
from mirror.sources.registry.arrival import Line
from mirror.sources.registry.connections import Trip, over_a_living_one
from mirror.sources.registry.encoding import PIECE, Decoder
from mirror.sources.registry.reading import Broken, Senseless
from mirror.sources.registry.receiver import arriving
from mirror.sources.registry.routes import INSIDE, Routes, host_of
from mirror.sources.registry.sessions import Sessions
from mirror.sources.registry.sites import is_same_site, repository_at
from mirror.sources.registry.throttle import Throttle
from mirror.telemetry.metrics import Metrics

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_DRAINED = 2**16  # bytes
_DRAINED_WITHIN = 0.5  # seconds; a connection is worth no more
_ON_SITE = frozenset({"tags", "referrers", "token"})  # kinds whose content nothing proves
_BY_DIGEST = frozenset({"blob", "manifest"})  # kinds whose content proves itself
_SLOWEST = 2**14  # bytes a second of an answer that is read whole, beyond `stall_timeout`
_HEDGED_AFTER = 1.0  # seconds of silence of a connection that was used before; or a share
_HEDGED_SHARE = 0.3  # of the time that an answer has
_ASKED_AGAIN = "again"  # the status of a request that was asked again over another connection
_READ_BUFFER = 2**18  # bytes; few wake-ups for a fast link, and a bound for a fast upstream


Form = dict[str, str] | bytes
"""The body of a POST, or the fields to make it of."""


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
        self._ssl: ssl.SSLContext | bool = True
        self.received = 0  # bytes, ever
        self.answer_timeout = connect_timeout
        self._stall_timeout = stall_timeout
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_timeout, sock_read=stall_timeout
        )
        self.throttle = Throttle(config.max_bandwidth, clock)
        if config.ca_file is not None:
            self._ssl = ssl.create_default_context(cafile=config.ca_file)

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        *,
        kind: str,
        form: Form | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield the final response, whatever its status.

        `form` is the body of a POST; it holds secrets, and follows no redirect.

        Raises:
            Unavailable: No (sensible) response.
        """
        response = await self._follow(method, url, headers, kind, form)
        try:
            yield response
        finally:
            if response.content.at_eof():
                response.release()  # the connection serves again
            else:
                response.close()

    async def read(self, response: aiohttp.ClientResponse, *, limit: int) -> bytes:
        """The whole body, decoded where it is encoded.

        Raises:
            Unavailable: It is larger than `limit` bytes, breaks, or drips: clients wait for all of
                it, on a connection that others need.
        """
        if (response.content_length or 0) > limit:
            raise Senseless(f"upstream's answer is larger than {limit} bytes")
        content = bytearray()
        decoder = Decoder(response.headers.get("Content-Encoding"))
        due = asyncio.get_running_loop().time() + self._stall_timeout
        with _receiving(response.url):
            async with asyncio.timeout_at(due) as patience:
                async for chunk in response.content.iter_any():
                    self.count(len(chunk))
                    await self._decode(decoder, chunk, content, limit=limit)
                    patience.reschedule(due + len(content) / _SLOWEST)
        with _decoding():
            content += decoder.end()
        return bytes(content)

    async def _decode(
        self, decoder: Decoder, chunk: bytes, content: bytearray, *, limit: int
    ) -> None:
        """Add what a chunk stands for. Raises Senseless."""
        with _decoding():
            for piece in decoder.feed(chunk):
                content += piece
                if len(content) > limit:
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
        with _receiving(response.url), line.arriving(now()) as arrival:
            asked_at = now()
            async for chunk in arriving(response, patience=self._stall_timeout):
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

    async def _follow(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        kind: str,
        form: Form | None,
    ) -> aiohttp.ClientResponse:
        status, asked = 0, url
        for _ in range(_MOST_REDIRECTS + 1):
            try:
                with _sending(url):
                    response = await self._send_once(method, url, headers, kind, form)
            except Unavailable as error:
                error.status_seen = status or None  # the registry is there, if its storage is not
                raise
            status = response.status
            location = response.headers.get("Location")
            if status not in _REDIRECTS or not location or form is not None:
                return response
            try:
                await self.drain(response)
                target = self._target(url, location, kind, status)
                _require_own_site(asked, target, kind, status)
            finally:
                response.release()
            if target.origin() != url.origin():
                headers = {k: v for k, v in headers.items() if k != "Authorization"}
            url = target
        raise Unavailable("upstream redirects in circles", status_seen=status)

    def _target(self, url: URL, location: str, kind: str, status: int) -> URL:
        try:
            target = parse_location(location, asked=url)
        except ValueError as error:
            raise Unavailable(
                "upstream redirects to what is no address", status_seen=status
            ) from error
        if target.scheme not in {"http", "https"} or not target.host:
            raise Unavailable("upstream redirects to what is no web address", status_seen=status)
        is_downgrade = (url.scheme, target.scheme) == ("https", "http")
        if is_downgrade and not (self._config.allow_http_redirect and kind in _BY_DIGEST):
            raise Unavailable(
                "upstream redirects from https to http;"
                " allow_http_redirect = true lets content by digest come that way",
                status_seen=status,
            )
        return target

    async def _send_once(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        kind: str,
        form: Form | None,
    ) -> aiohttp.ClientResponse:
        route = await self._routes.find(url)
        session, proxy_headers = route.session, route.http_proxy_headers
        if url.scheme == "http":
            headers, proxy_headers = headers | proxy_headers, {}

        tries = 0

        async def send(trip: Trip) -> aiohttp.ClientResponse:
            nonlocal tries
            tries += 1
            return await session.request(
                method, url, headers=headers, allow_redirects=False, timeout=self._timeout,
                ssl=self._ssl, read_bufsize=_READ_BUFFER, trace_request_ctx=trip, data=form,
                proxy=route.http_proxy, proxy_headers=proxy_headers or None,
            )  # fmt: skip

        began = time.monotonic()
        status = "none"
        patience = min(_HEDGED_AFTER, self.answer_timeout * _HEDGED_SHARE)
        try:
            # A client is waiting, and wants to be sent elsewhere rather than to wait in vain.
            with route.explained(url):
                async with asyncio.timeout(self.answer_timeout):
                    # Only what may be repeated is (RFC 9110, 9.2.2): not a form.
                    response = await (
                        send(Trip())
                        if form is not None
                        else over_a_living_one(send, session, url, patience=patience)
                    )
            status = str(response.status)
            route.check(response)
            self._routes.note(route, response)
            self._metrics.upstream_seconds.labels(
                self._label.upstream, self._label.endpoint, kind
            ).observe(time.monotonic() - began)
        finally:
            self._count_requests(kind, method, status, tries)
        return response

    def _count_requests(self, kind: str, method: str, status: str, tries: int) -> None:
        """The last of them had this status; the others were over kept connections that are dead."""
        for counted, number in ((status, 1), (_ASKED_AGAIN, tries - 1)):
            if number > 0:
                self._metrics.upstream_requests.labels(
                    self._label.upstream, self._label.endpoint, kind, method, counted
                ).inc(number)


def _require_own_site(asked: URL, target: URL, kind: str, status: int) -> None:
    """See that what no digest proves comes from its own site, or from another registry's API.

    Raises:
        Unavailable: It would come from somewhere else.
    """
    if kind not in _ON_SITE or is_same_site(target.host or "", asked.host or ""):
        return
    _, found, rest = asked.path.rpartition(f"/{kind}/")
    if kind == "token" or repository_at(target, f"{found}{rest}".lstrip("/")) is None:
        raise Unavailable(
            "upstream redirects to another site for what no digest proves", status_seen=status
        )


@contextmanager
def _sending(url: URL) -> Iterator[None]:
    """What comes out of sending a request: it did not get there, or the answer makes no sense."""
    try:
        with _receiving(url):
            yield
    except RegistryError:
        raise
    except Exception as error:  # what a parser says of what upstream has sent
        raise Senseless(
            f"{host_of(url)} answered with something that is no HTTP: {type(error).__name__}"
        ) from error


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise Senseless(f"upstream's answer is {error}") from error


@contextmanager
def _receiving(url: URL) -> Iterator[None]:
    """Turn aiohttp's exceptions into ours, which name the host only: a query may hold secrets."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise Unavailable(f"{host_of(url)} has a certificate that cannot be trusted") from error
    except TimeoutError as error:
        raise Unavailable(f"{host_of(url)} is silent", timed_out=True) from error
    except aiohttp.ClientConnectorDNSError as error:
        why = INSIDE if error.strerror == "no public address" else error.strerror
        raise Unavailable(f"{host_of(url)} cannot be reached: {why}") from error
    except aiohttp.ClientConnectorError as error:
        raise Unavailable(f"{host_of(url)} cannot be reached: {error.strerror}") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
        raise Broken(f"the connection to {host_of(url)} broke: {type(error).__name__}") from error
