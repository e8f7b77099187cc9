"""The token servers that an endpoint has named, asked for clients that cannot reach them.

Only what the registry itself has named can be asked, and only where its clients' passwords belong
(`mirror.sources.registry.tokens.is_trusted`). What passes through is neither kept nor logged, and
tells nothing of the endpoint.
"""

import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack

from cachetools import LRUCache
from yarl import URL

from mirror.aio.slots import Slots, Urgency
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.challenge import parse_challenges
from mirror.oci.errors import Denied, ErrorCode, Unavailable
from mirror.oci.token import TokenAnswer, TokenQuestion, key_of
from mirror.sources.registry.addresses import parse_address
from mirror.sources.registry.exchange import Exchange
from mirror.sources.registry.headers import parse_retry_after
from mirror.sources.registry.reading import Senseless
from mirror.sources.registry.tokens import is_trusted
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_REMEMBERED = 64  # token servers; a registry has one, or one for each group of repositories
_AT_ONCE = 32
_LARGEST = 1 << 20  # bytes of an answer
_FORM = "application/x-www-form-urlencoded"  # distribution, spec/auth/oauth.md


class TokenServers:
    """Of one endpoint, by what stands for each (`mirror.oci.token.key_of`)."""

    def __init__(self, config: EndpointConfig, exchange: Exchange) -> None:
        self._config = config
        self._registry = URL(config.url)
        self._exchange = exchange
        self._named: LRUCache[str, str] = LRUCache(_REMEMBERED)
        self._slots = Slots(_AT_ONCE)

    def __contains__(self, key: str) -> bool:
        return key in self._named

    def note(self, challenges: Iterable[str]) -> None:
        """The registry has named these."""
        for one in parse_challenges(challenges):
            if one.scheme == "bearer" and (realm := one.parameters.get("realm")):
                self._named[key_of(realm)] = realm

    async def ask(self, question: TokenQuestion, authorization: str) -> TokenAnswer:
        """What the token server says to the client. KeyError: none is known by that key.

        Raises:
            Denied: It is not the registry's own.
            Unavailable: It says nothing, or nothing sensible.
        """
        url = self._address(self._named[question.server], question.query)
        headers = {"Authorization": authorization} if authorization else {}
        if question.form is not None:
            headers["Content-Type"] = _FORM
        async with AsyncExitStack() as stack:
            try:
                within = self._exchange.answer_timeout
                await stack.enter_async_context(
                    self._slots.take(Urgency.of_client(), within=within)
                )
            except TimeoutError as error:
                raise Unavailable("too many ask for tokens", timed_out=True) from error
            response = await stack.enter_async_context(
                self._exchange.send(
                    "GET" if question.form is None else "POST", url, headers,
                    kind="token", form=question.form,
                )
            )  # fmt: skip
            if not self._is_trusted(response.url):
                raise Unavailable("the token server redirects to another host")
            if 300 <= response.status < 400:  # noqa: PLR2004 - 3xx
                raise Unavailable("the token server redirects what it should answer")
            if not 200 <= response.status < 600:  # noqa: PLR2004 - RFC 9110, 15: others are invalid
                raise Senseless(f"the token server answered {response.status}")
            content = await self._exchange.read(response, limit=_LARGEST)
            told = response.headers
            return TokenAnswer(
                response.status, content, response.content_type == "application/json",
                parse_retry_after(told.get("Retry-After"), date=told.get("Date")),
            )  # fmt: skip

    def _address(self, realm: str, query: str) -> URL:
        try:
            url = parse_address(realm)
        except ValueError as error:
            raise Unavailable("upstream's challenge names no usable token server") from error
        if not self._is_trusted(url):
            _logger.warning(
                "clients' tokens are not asked of a token server elsewhere;"
                " if it is the registry's own, add its host to token_hosts",
                extra=fields(endpoint=self._config.url, token_host=url.host),
            )
            raise Denied(
                ErrorCode.DENIED,
                "the registry's token server is on another domain than the registry, and is not"
                " in token_hosts: this mirror asks it nothing",
            )
        whole = "&".join(part for part in (url.raw_query_string, query) if part)
        path = f"{url.origin()}{url.raw_path}"
        return URL(f"{path}?{whole}" if whole else path, encoded=True)

    def _is_trusted(self, url: URL) -> bool:
        return url.scheme in {"http", "https"} and is_trusted(
            url, registry=self._registry, token_hosts=self._config.token_hosts
        )
