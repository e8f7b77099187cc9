"""Authorization at one endpoint: challenges answered, tokens fetched once and reused.

Credentials go only where they belong: to a token server on the registry's own host, on its
registrable domain, or in `token_hosts`, and never over plain HTTP on behalf of an HTTPS registry.
"""

import asyncio
import base64
import ipaddress
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path

import aiohttp
from cachetools import LRUCache
from publicsuffixlist import PublicSuffixList
from yarl import URL

from mirror.aio.single_flight import SingleFlight
from mirror.aio.tasks import Starter
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.errors import Denied, ErrorCode, Unavailable
from mirror.sources.registry.challenge import Challenge, parse_challenges
from mirror.sources.registry.exchange import Exchange
from mirror.sources.registry.headers import field_value
from mirror.sources.registry.reading import Senseless, read_json
from mirror.sources.registry.status import rate_limited
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_LIFE = 60.0  # seconds, where expires_in is absent (distribution, spec/auth/token.md)
_LONGEST_LIFE = 86400.0  # seconds; what is revoked meanwhile is found out by a 401
_MARGIN = 0.1  # of a token's life: it is replaced before it can expire on its way
_REMEMBERED = 4096  # tokens, one for each repository
_ATTEMPTS = 3  # token servers reset connections now and then (Alibaba's)
_LARGEST = 1 << 20  # bytes of a token server's answer


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    good_until: float


class Authorizer:
    """What to send as `Authorization`, for each repository of one endpoint."""

    def __init__(
        self,
        config: EndpointConfig,
        exchange: Exchange,
        *,
        tasks: Starter,
        clock: Callable[[], float],
        admit: Callable[[str], None],
    ) -> None:
        self._admit = admit  # raises where it is of no use to ask for this repository's token
        self._config = config
        self._registry = URL(config.url)
        self._exchange = exchange
        self._clock = clock
        self._tokens: LRUCache[str, _Token] = LRUCache(_REMEMBERED)
        self._flights: SingleFlight[str, str] = SingleFlight(tasks)
        self._bearer: Challenge | None = None  # as last seen; only its scope varies
        self._basic: str | None = None

    async def known(self, repository: str) -> str | None:
        """What has convinced, or what can be had without being challenged first.

        Raises:
            Denied, Unavailable: The token server says no, or nothing.
        """
        if self._basic is not None:
            return self._basic
        token = self._tokens.get(repository)
        if token is not None and self._clock() < token.good_until:
            return token.header
        return await self._fetch(repository) if self._bearer is not None else None

    async def answer(self, repository: str, headers: Iterable[str], sent: str | None) -> str | None:
        """What to send after a 401 with these `WWW-Authenticate` headers, having sent `sent`.

        None where there is nothing better to send.

        Raises:
            Denied, Unavailable: The token server says no, or nothing.
        """
        challenges = {challenge.scheme: challenge for challenge in parse_challenges(headers)}
        if bearer := challenges.get("bearer"):
            self._bearer, self._basic = bearer, None
            token = self._tokens.get(repository)
            if token is not None and token.header == sent:
                del self._tokens[repository]  # revoked, or our clocks differ
            return _other_than(sent, await self.known(repository))
        if "basic" in challenges and self._config.username is not None:
            self._basic = await self._credentials()
            return _other_than(sent, self._basic)
        return None

    async def _fetch(self, repository: str) -> str:
        return await self._flights.join(repository, lambda: self._fetch_token(repository))

    async def _fetch_token(self, repository: str) -> str:
        assert self._bearer is not None  # noqa: S101 - no token is fetched without a challenge
        realm = _token_url(self._bearer.parameters, repository)
        self._admit(repository)
        headers = {}
        if self._config.username is not None and self._may_have_credentials(realm):
            headers["Authorization"] = await self._credentials()
        asked_at = self._clock()
        answer = await self._ask(realm, headers)
        token = _parse_token(answer)
        life = token.good_until * (1 - _MARGIN)
        self._tokens[repository] = _Token(token.header, asked_at + life)
        return token.header

    async def _ask(self, url: URL, headers: dict[str, str]) -> bytes:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._exchange.send("GET", url, headers, kind="token") as response:
                    return await _read_answer(self._exchange, response)
            except Unavailable as error:
                # A server that said something is not asked again; a broken connection is.
                if error.status_seen is not None or error.timed_out or attempt == _ATTEMPTS:
                    raise
        raise AssertionError

    def _may_have_credentials(self, realm: URL) -> bool:
        if is_trusted(realm, registry=self._registry, token_hosts=self._config.token_hosts):
            return True
        _logger.warning(
            "credentials are not sent to a token server elsewhere;"
            " if it is the registry's own, add its host to token_hosts",
            extra=fields(endpoint=self._config.url, token_host=realm.host),
        )
        return False

    async def _credentials(self) -> str:
        assert self._config.password_file is not None  # noqa: S101 - checked in mirror.config
        # Read each time: a secret may be rotated while the mirror runs.
        password = await asyncio.to_thread(_read_secret, self._config.password_file)
        pair = f"{self._config.username}:{password}"
        return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"


def is_trusted(realm: URL, *, registry: URL, token_hosts: Iterable[str]) -> bool:
    """Whether a token server may be given the credentials for `registry`."""
    if registry.scheme == "https" and realm.scheme != "https":
        return False
    host, own = realm.host or "", registry.host or ""
    if host == own or host in token_hosts or realm.authority in token_hosts:
        return True
    domain = _registrable_domain(own)
    return domain is not None and _registrable_domain(host) == domain


def _registrable_domain(host: str) -> str | None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _suffixes().privatesuffix(host)
    return None


@cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def _token_url(parameters: dict[str, str], repository: str) -> URL:
    """distribution, spec/auth/token.md: realm?service=…&scope=…; one repository, and only pull."""
    query = {"scope": f"repository:{repository}:pull"}
    if service := parameters.get("service"):
        query["service"] = service
    try:
        realm = URL(parameters["realm"])
        realm.origin()  # yarl finds out what a port or a host is worth when it is asked
        url = realm.update_query(query)
    except (KeyError, ValueError) as error:
        raise Senseless("upstream's challenge names no usable token server") from error
    if realm.scheme not in {"http", "https"} or not realm.host:
        raise Senseless("upstream's challenge names no usable token server")
    return url


async def _read_answer(exchange: Exchange, response: aiohttp.ClientResponse) -> bytes:
    if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise Denied(ErrorCode.DENIED, "the token server refuses this repository")
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise rate_limited(response)
    if response.status != HTTPStatus.OK:
        raise Unavailable(
            f"the token server answered {response.status}", status_seen=response.status
        )
    return await exchange.read(response, limit=_LARGEST)


def _parse_token(answer: bytes) -> _Token:
    """The token, and as `good_until` its life in seconds."""
    document = read_json(answer, what="the token server's answer")
    if not isinstance(document, dict):
        raise Senseless("the token server's answer makes no sense")
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not field_value(token):
        raise Senseless("the token server's answer holds no token")
    return _Token(f"Bearer {token}", _life(document.get("expires_in")))


def _life(seconds: object) -> float:
    """For how long to believe in a token."""
    try:
        life = float(seconds)  # type: ignore[arg-type]  # whatever it is: a TypeError is an answer
    except (OverflowError, TypeError, ValueError):
        return _LIFE
    return min(life, _LONGEST_LIFE) if math.isfinite(life) and life > 0 else _LIFE


def _read_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip("\r\n")
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error


def _other_than(sent: str | None, header: str | None) -> str | None:
    return None if header == sent else header
