"""Authorization at one endpoint: challenges answered, tokens fetched once and reused.

Credentials go only where they belong: to a token server on the registry's own host, on its
registrable domain, or in `token_hosts`, and never over plain HTTP on behalf of an HTTPS registry.

A token is asked for by GET first (distribution, spec/auth/token.md), which every token server of
old knows, and by POST (spec/auth/oauth.md) where GET is refused, or for an identity token.

Not every refusal says what it is of. One without a challenge may be of a token whose time is over
(400 at public.ecr.aws, a bare 401 at dhi.io): one that has convinced before is had anew, once.
A 403 may be of the credentials (ECR, GHCR's token server) or of the repository: they are then shown
where no repository is named, as `docker login` does.

Nor does every registry ask who somebody is: some hide from strangers what they have, by 404 or 403,
and challenge at `/v2/` alone (GitHub Packages). docker and podman ask there first; here it is asked
where credentials might help.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from http import HTTPStatus

from yarl import URL

from mirror.aio.bounded import LruBytes
from mirror.aio.single_flight import SingleFlight
from mirror.aio.tasks import Starter
from mirror.config import Endpoint as EndpointConfig
from mirror.oci.challenge import Challenge, parse_challenges
from mirror.oci.errors import Denied, ErrorCode, Unavailable
from mirror.sources.registry.credentials import (
    Credential,
    Unusable,
    credentials_of,
    log_unusable,
)
from mirror.sources.registry.exchange import Exchange
from mirror.sources.registry.tokens import (
    Access,
    SecretRefused,
    TokenWanted,
    is_trusted,
    parse_token,
    read_answer,
    read_challenge,
)
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_MARGIN = 0.1  # of a token's life: it is replaced before it can expire on its way
_TOKENS = 4 * 2**20  # bytes of tokens, one for each access; a server may make one of 256 KiB
_CHALLENGED = 2**20  # bytes of repositories' names
_ATTEMPTS = 3  # token servers reset connections now and then (Alibaba's)
# How token servers say that they do not know a method (Pulp: 400).
_OTHER_METHOD = frozenset({400, 404, 405, 501})
_REFUSALS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_REFUSED = (
    "upstream refuses the mirror's credentials: renew what is in password_file,"
    " or what credential_helper gives"
)
_GOOD_FOR = 60.0  # seconds for which is believed what `/v2/` tells of passwords, or their absence


@dataclass(slots=True)
class _Token:
    header: str
    good_until: float
    has_convinced: bool = False


class Authorizer:
    """What to send as `Authorization`, for each access to repositories of one endpoint."""

    def __init__(
        self,
        config: EndpointConfig,
        exchange: Exchange,
        *,
        tasks: Starter,
        clock: Callable[[], float],
        note_refused: Callable[[], None],
        admit: Callable[[str], None],
    ) -> None:
        self._admit = admit  # raises where it is of no use to ask for this repository's token
        self._config = config
        self._registry = URL(config.url)
        self._exchange = exchange
        self._clock = clock
        self._tokens: LruBytes[Access, _Token] = LruBytes(
            _TOKENS, lambda access, token: access.weight + len(token.header)
        )
        self._flights: SingleFlight[Access, str] = SingleFlight(tasks)
        self._bearer: Challenge | None = None  # as last seen; only its scope varies
        self._challenged: LruBytes[Access, None] = LruBytes(
            _CHALLENGED, lambda access, _: access.weight
        )
        self._basic: str | None = None
        self._basic_good_until = 0.0
        self._credentials = credentials_of(config, clock=clock, tasks=tasks)
        self._uninvited_until = 0.0  # `/v2/` wants to know nobody's name
        self._version: object = None  # of the credentials that tokens were had with
        self._posts = False  # the token server takes no GET
        self._note_refused = note_refused  # counts
        self.trouble: str | None = None  # why the mirror's own credentials are of no use by now

    def credentials_version(self) -> object:
        """Changes when the mirror's credentials have: what was refused may be granted now."""
        return None if self._credentials is None else self._credentials.version()

    async def known(self, access: Access) -> str | None:
        """What has convinced, or what can be had without being challenged first.

        Raises:
            Denied, Unavailable: The token server says no, or nothing.
        """
        self._forget_what_changed()
        if self._basic is not None:
            return self._basic
        token = self._tokens.get(access)
        if token is not None and self._clock() < token.good_until:
            return token.header
        return await self._fetch(access) if self._bearer is not None else None

    async def answer(self, access: Access, headers: Iterable[str], sent: str | None) -> str | None:
        """What to send after a 401 with these `WWW-Authenticate` headers, having sent `sent`.

        None where there is nothing better to send.

        Raises:
            Denied, Unavailable: The token server says no, or nothing.
        """
        challenges: dict[str, Challenge] = {}
        for challenge in parse_challenges(headers):
            challenges.setdefault(challenge.scheme, challenge)  # as clients do, the first that fits
        if bearer := challenges.get("bearer"):
            self._bearer, self._basic = bearer, None
            self._challenged[access] = None
            token = self._tokens.get(access)
            if token is not None and token.header == sent:
                del self._tokens[access]  # revoked, or our clocks differ
            return _other_than(sent, await self.known(access))
        if "basic" in challenges and self._credentials is not None:
            return await self._answer_basic(sent)
        return None

    async def introduce(self, access: Access) -> str | None:
        """What to send after a refusal to a stranger that is no challenge; None: nothing.

        Raises:
            Denied, Unavailable: The token server says no, or nothing.
        """
        if self._credentials is None or self._clock() < self._uninvited_until:
            return None
        _, challenges = await self._ask_api(None)
        better = await self.answer(access, challenges, None)
        if better is None:
            self._uninvited_until = self._clock() + _GOOD_FOR
        return better

    def has_challenged(self, access: Access) -> bool:
        """Whether a token is known to be wanted for it; others may be open to everybody."""
        return access in self._challenged

    def convinced(self, access: Access, sent: str) -> None:
        """A request with this was let in."""
        token = self._tokens.get(access)
        if token is not None and token.header == sent:
            token.has_convinced = True
        if sent == self._basic:
            self.trouble = None

    async def instead_of(self, access: Access, sent: str, status: int) -> str | None:
        """What to send after a refusal that is no challenge, to `sent`.

        None where there is nothing better to send.

        Raises:
            Denied, Unavailable: The token server says no, or nothing.
        """
        token = self._tokens.get(access)
        if token is not None and token.header == sent and token.has_convinced:
            del self._tokens[access]
            return _other_than(sent, await self._fetch(access))
        if sent != self._basic or status not in _REFUSALS:
            return None
        return await self._answer_basic(sent, is_doubtful=status == HTTPStatus.UNAUTHORIZED)

    async def _answer_basic(self, sent: str | None, *, is_doubtful: bool = True) -> str | None:
        """The password, or another one than was refused; `is_doubtful`: if that means a wrong one.

        None where there is nothing better to send.
        """
        credential = await self._credential()
        if credential is None or credential.is_identity_token:
            return None  # a refresh token is no password
        if credential.basic == sent:
            if await self._is_good(sent, otherwise=not is_doubtful):
                return None
            self._refused()
            credential = await self._credential() or credential
        self._version = self.credentials_version()
        self._basic = _other_than(sent, credential.basic)
        return self._basic

    async def _is_good(self, basic: str, *, otherwise: bool) -> bool:
        """Whether a password that was refused for one thing is good at all.

        `otherwise`: what to think where the registry does not tell, or lets in everybody.
        """
        if self._clock() < self._basic_good_until:
            return True
        if (await self._ask_api(basic))[0] in _REFUSALS:
            return False
        if (await self._ask_api(None))[0] not in _REFUSALS:
            return otherwise
        self._basic_good_until = self._clock() + _GOOD_FOR
        return True

    async def _ask_api(self, basic: str | None) -> tuple[int | None, list[str]]:
        """The status of `/v2/`, and its challenges; None where it cannot be asked."""
        url = URL(f"{self._config.url}/v2/", encoded=True)
        headers = {"Authorization": basic} if basic else {}
        try:
            async with self._exchange.send("GET", url, headers, kind="ping") as response:
                return response.status, response.headers.getall("WWW-Authenticate", [])
        except Unavailable:
            return None, []

    async def watch(self) -> None:
        """Notice that the credentials change; does not return."""
        if self._credentials is not None:
            await self._credentials.watch()

    def _forget_what_changed(self) -> None:
        """Tokens and passwords of other credentials than those of now."""
        version = self.credentials_version()
        if version != self._version:
            self._version, self._basic, self._basic_good_until = version, None, 0.0
            self._tokens.clear()
            self.trouble = None  # until they are refused, too

    async def _credential(self) -> Credential | None:
        if self._credentials is None:
            return None
        try:
            credential = await self._credentials.get()
        except Unusable as error:
            self._note_refused()
            self.trouble = "the mirror's credentials cannot be had; its log says why"
            log_unusable(self._config.url, error)
            raise Denied(
                ErrorCode.DENIED, "the mirror's credentials cannot be had; see its log"
            ) from error
        return credential

    def _refused(self) -> None:
        assert self._credentials is not None  # noqa: S101 - what was sent came from there
        self._credentials.refused()
        self._note_refused()
        self.trouble = _REFUSED
        _logger.error(_REFUSED, extra=fields(endpoint=self._config.url))

    async def _fetch(self, access: Access) -> str:
        return await self._flights.join(access, lambda: self._fetch_token(access))

    async def _fetch_token(self, access: Access) -> str:
        assert self._bearer is not None  # noqa: S101 - no token is fetched without a challenge
        realm, service = read_challenge(self._bearer.parameters)
        question = TokenWanted(realm, service, access.scopes(self._config.name_there))
        self._admit(access.repository)
        credential = None
        if self._credentials is not None and self._may_have_credentials(question.realm):
            credential = await self._credential()
        version, asked_at = self.credentials_version(), self._clock()
        try:
            answer = await self._ask_as(question, credential)
        except Denied as denial:
            if credential is None or not await self._is_of(credential, question, denial):
                raise
            self._refused()
            renewed = await self._credential()
            if renewed == credential:
                raise
            version = self.credentials_version()
            answer = await self._ask_as(question, renewed)
        if credential is not None:
            self.trouble = None
        header, life = parse_token(answer)
        if version == self.credentials_version():
            self._version = version
            self._tokens[access] = _Token(header, asked_at + life * (1 - _MARGIN))
        return header

    async def _is_of(self, credential: Credential, question: TokenWanted, denial: Denied) -> bool:
        """Whether the token server denies these credentials everything, or just a repository."""
        if isinstance(denial, SecretRefused):
            return True
        try:
            await self._ask_as(replace(question, scopes=()), credential)
        except Denied:
            return True
        except Unavailable:
            pass
        return False

    async def _ask_as(self, question: TokenWanted, credential: Credential | None) -> bytes:
        """Ask in the way that worked last, and in the other one where that is not known there."""
        if credential is None:
            return await self._ask("GET", question.url, {}, None)
        if credential.is_identity_token:
            return await self._ask("POST", question.realm, {}, question.form(credential))
        try:
            return await self._ask_with_password(question, credential)
        except Unavailable as error:
            if error.status_seen not in _OTHER_METHOD:
                raise
            self._posts = not self._posts
            return await self._ask_with_password(question, credential)

    async def _ask_with_password(self, question: TokenWanted, credential: Credential) -> bytes:
        if self._posts:
            return await self._ask("POST", question.realm, {}, question.form(credential))
        return await self._ask("GET", question.url, {"Authorization": credential.basic}, None)

    async def _ask(
        self, method: str, url: URL, headers: dict[str, str], form: dict[str, str] | None
    ) -> bytes:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._exchange.send(
                    method, url, headers, kind="token", form=form
                ) as response:
                    return await read_answer(self._exchange, response)
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


def _other_than(sent: str | None, header: str | None) -> str | None:
    return None if header == sent else header
