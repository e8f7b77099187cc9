"""`/v2/` of an upstream where each client's own authorization decides: how clients log in.

docker, podman and skopeo take the challenge from there, and nowhere else; and what they are told
there is all that `docker login` goes by. So upstream is asked, each time that there is a password
or a token. Only a refusal is remembered for a while, or a machine that keeps trying what is wrong
would have the mirror's address shut out there, and everybody with it. For the same reason wrong
passwords are limited by the address that they come from (`mirror.aio.guessing`).

What upstream answers to those who show nothing is the same for all, and is remembered: every pull
begins with it. It also outlives an outage, or clients would not get to what they may have.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from mirror.aio.bounded import TtlBytes
from mirror.aio.guessing import Guesses, is_password
from mirror.aio.single_flight import SingleFlight
from mirror.aio.slots import client
from mirror.oci.errors import Denied, ErrorCode, Unavailable
from mirror.oci.token import TokenAnswer, TokenQuestion
from mirror.sources.registry.registry import Registry

_REFUSED = 4 * 2**20  # bytes; a registry's challenge may have 16 KiB
_REMEMBERED_FOR = 60.0  # seconds; a registry's challenge changes with its configuration only

_WRONG = {400, 401, 403}  # what token servers say of a wrong password, or refresh token

_Key = tuple[str, bytes]
_Refusal = tuple[ErrorCode, tuple[str, ...]]  # and its challenges


@dataclass(frozen=True, slots=True)
class _Welcome:
    """What somebody who shows nothing is told; no challenges: come in."""

    challenges: tuple[str, ...]
    good_until: float


class Logins:
    """Asks upstreams whom they let in; refusals are believed for `missing_for` seconds."""

    def __init__(
        self,
        registries: Mapping[str, Registry],
        flights: SingleFlight[_Key, None],
        *,
        guesses: Guesses,
        missing_for: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._registries = registries
        self._flights = flights
        self._guesses = guesses
        self._monotonic = monotonic
        self._welcomes: dict[str, _Welcome] = {}
        self._refused: TtlBytes[_Key, _Refusal] = TtlBytes(
            _REFUSED, lambda _, refusal: sum(map(len, refusal[1])), ttl=missing_for, timer=monotonic
        )

    async def check(self, upstream: str, authorization: str) -> None:
        """Return where upstream lets somebody in with this authorization ("": none).

        Raises:
            Denied, Missing, Refused: It does not; with its challenges, if it has any.
            Unavailable: It cannot be asked; or too many wrong passwords come from there (429).
        """
        if authorization:
            # Not the secret itself: a memory dump should not hold everybody's passwords.
            key = (upstream, hashlib.sha256(authorization.encode()).digest())
            await self._flights.join(key, lambda: self._ask(key, authorization))
            return
        welcome = self._welcomes.get(upstream)
        if welcome is None or self._monotonic() >= welcome.good_until:
            try:
                await self._flights.join((upstream, b""), lambda: self._learn(upstream))
            except Unavailable:
                if welcome is None:
                    raise
            welcome = self._welcomes[upstream]
        if welcome.challenges:
            raise Denied(
                ErrorCode.UNAUTHORIZED, "the registry wants a login", challenges=welcome.challenges
            )

    async def ask_token_server(
        self, upstream: str, question: TokenQuestion, authorization: str
    ) -> TokenAnswer:
        """What a token server that upstream has named says to a client.

        Raises:
            Missing: Upstream names no such token server; a new challenge leads to the right one.
            Denied: It is not upstream's own.
            Unavailable: It says nothing, or nothing sensible; or as `check`.
        """
        registry = self._registries[upstream]
        if not registry.has_named(question.server):
            with suppress(Denied):
                await self.check(upstream, "")  # named to clients before the mirror was restarted
        if not authorization and question.form is None:
            return await registry.ask_token_server(question, authorization)
        who, is_wrong = client.get(), False
        self._guesses.begin(who)
        try:
            answer = await registry.ask_token_server(question, authorization)
            is_wrong = answer.status in _WRONG
            return answer
        finally:
            if not is_wrong:
                self._guesses.take_back(who)

    async def _learn(self, upstream: str) -> None:
        """What upstream says now to somebody who shows nothing."""
        challenges: tuple[str, ...] = ()
        try:
            await self._registries[upstream].ask_in("")
        except Denied as error:
            if not error.challenges:
                raise
            challenges = error.challenges
        self._welcomes[upstream] = _Welcome(challenges, self._monotonic() + _REMEMBERED_FOR)

    async def _ask(self, key: _Key, authorization: str) -> None:
        refusal = self._refused.get(key)
        if refusal is None:
            is_guess = is_password(authorization)
            try:
                with self._guesses.trying(client.get()) if is_guess else nullcontext():
                    await self._registries[key[0]].ask_in(authorization)
            except Denied as error:
                # Not the error itself: the frames that it has passed hold the secret.
                refusal = self._refused[key] = (error.code, error.challenges)
            else:
                return
        code, challenges = refusal
        message = "the registry refuses this name and password, or token"
        raise Denied(code, message, challenges=challenges)
