"""What a token server is asked for, and what it answers (distribution, spec/auth)."""

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from yarl import URL

from mirror.oci.errors import Denied, ErrorCode, Unavailable
from mirror.sources.registry.addresses import parse_address
from mirror.sources.registry.credentials import Credential
from mirror.sources.registry.exchange import Exchange
from mirror.sources.registry.headers import field_value
from mirror.sources.registry.reading import Senseless, read_json
from mirror.sources.registry.sites import is_same_site
from mirror.sources.registry.status import rate_limited

_LIFE = 60.0  # seconds, where expires_in is absent (distribution, spec/auth/token.md)
_LONGEST_LIFE = 86400.0  # seconds; what is revoked meanwhile is found out by a 401
_LARGEST = 1 << 18  # bytes of a token server's answer
_CLIENT_ID = "mirror"
_OAUTH_REFUSALS = ("invalid_grant", "invalid_client", "unauthorized_client")  # RFC 6749, 5.2


def is_trusted(realm: URL, *, registry: URL, token_hosts: Iterable[str]) -> bool:
    """Whether a token server may be given the credentials for `registry`."""
    if registry.scheme == "https" and realm.scheme != "https":
        return False
    host, own = realm.host or "", registry.host or ""
    if host in token_hosts or realm.authority in token_hosts:
        return True
    return is_same_site(host, own)


@dataclass(frozen=True, slots=True)
class Access:
    """What a token is to allow: to pull from a repository, or to push to it too.

    `source` is another one, from which a blob is to be mounted (spec end-11).
    """

    repository: str
    is_push: bool = False
    source: str | None = None

    @property
    def weight(self) -> int:
        """Characters of its names."""
        return len(self.repository) + len(self.source or "")

    def scopes(self, name_there: Callable[[str], str]) -> tuple[str, ...]:
        """In the token servers' words (distribution, spec/auth/scope.md)."""
        actions = "pull,push" if self.is_push else "pull"
        own = f"repository:{name_there(self.repository)}:{actions}"
        if self.source is None:
            return (own,)
        return own, f"repository:{name_there(self.source)}:pull"


@dataclass(frozen=True, slots=True)
class TokenWanted:
    """What a token server is asked: for these scopes and no more; none: who one is, at all."""

    realm: URL
    service: str
    scopes: tuple[str, ...]

    @property
    def url(self) -> URL:
        """For a GET (distribution, spec/auth/token.md)."""
        service = {"service": self.service} if self.service else {}
        return self.realm.update_query(service | ({"scope": self.scopes} if self.scopes else {}))

    def form(self, credential: Credential) -> dict[str, str]:
        """For a POST (distribution, spec/auth/oauth.md)."""
        form = {"client_id": _CLIENT_ID}
        form |= {"service": self.service} if self.service else {}
        form |= {"scope": " ".join(self.scopes)} if self.scopes else {}
        if credential.is_identity_token:
            return form | {"grant_type": "refresh_token", "refresh_token": credential.secret}
        user = {"username": credential.username, "password": credential.secret}
        return form | user | {"grant_type": "password"}


def read_challenge(parameters: dict[str, str]) -> tuple[URL, str]:
    """Where a challenge sends us, and for which service. Raises Senseless."""
    try:
        realm = parse_address(parameters["realm"])
        realm.update_query(scope="")
    except (KeyError, ValueError) as error:
        raise Senseless("upstream's challenge names no usable token server") from error
    if realm.scheme not in {"http", "https"} or not realm.host:
        raise Senseless("upstream's challenge names no usable token server")
    return realm, parameters.get("service", "")


class SecretRefused(Denied):
    """The token server does not take the credentials: 401, or OAuth2's words for it."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.DENIED, "the token server refuses the mirror's credentials")


async def read_answer(exchange: Exchange, response: aiohttp.ClientResponse) -> bytes:
    """The body of a token server's answer.

    Raises:
        SecretRefused, Denied, Unavailable: It is a refusal of the credentials, or of what was
            wanted; or it says nothing, or nothing sensible.
    """
    if response.status == HTTPStatus.UNAUTHORIZED:
        raise SecretRefused
    if response.status == HTTPStatus.FORBIDDEN:
        raise Denied(ErrorCode.DENIED, "the token server refuses this repository")
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise rate_limited(response)
    if response.status == HTTPStatus.BAD_REQUEST:
        await _require_other_words(exchange, response)
    if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:  # 201: one was created
        raise Unavailable(
            f"the token server answered {response.status}", status_seen=response.status
        )
    return await exchange.read(response, limit=_LARGEST)


async def _require_other_words(exchange: Exchange, response: aiohttp.ClientResponse) -> None:
    """See that a token server does not mean the credentials by 400. Raises SecretRefused."""
    with suppress(Unavailable):
        told = read_json(await exchange.read(response, limit=_LARGEST), what="a refusal")
        if isinstance(told, dict) and told.get("error") in _OAUTH_REFUSALS:
            raise SecretRefused


def parse_token(answer: bytes) -> tuple[str, float]:
    """What to send as `Authorization`, and for how many seconds. Raises Senseless."""
    document = read_json(answer, what="the token server's answer")
    if not isinstance(document, dict):
        raise Senseless("the token server's answer makes no sense")
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not field_value(token):
        raise Senseless("the token server's answer holds no token")
    return f"Bearer {token}", _life(document.get("expires_in"))


def _life(seconds: object) -> float:
    """For how long to believe in a token."""
    try:
        life = float(seconds)  # type: ignore[arg-type]  # whatever it is: a TypeError is an answer
    except (OverflowError, TypeError, ValueError):
        return _LIFE
    return min(life, _LONGEST_LIFE) if math.isfinite(life) and life > 0 else _LIFE
