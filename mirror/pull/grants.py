"""Which client may pull what from an `access = "client"` upstream.

The mirror has no opinion of its own: it asks upstream once with the client's own `Authorization`,
and believes the answer for the life of that token.
"""

import base64
import hashlib
import json
import math
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

from cachetools import TLRUCache

from mirror.aio.guessing import Guesses, is_password
from mirror.aio.single_flight import SingleFlight
from mirror.aio.slots import client
from mirror.oci.errors import Missing
from mirror.oci.reference import Repository
from mirror.sources.registry.endpoint import Scope

_LIFE = 60.0  # seconds, for what tells nothing of its life
_LONGEST = 3600.0  # seconds
_REMEMBERED = 16384  # some 14 MiB, where repositories have the longest names

_Key = tuple[Repository, bytes]


class Grants:
    """What upstream has accepted, until when.

    No grant outlives its revocation by more than `longest` seconds. `clock` in seconds since the
    epoch, as in tokens; a grant's own life is counted by the `monotonic` one, which nobody sets
    back.
    """

    def __init__(
        self,
        flights: SingleFlight[object, None],
        *,
        guesses: Guesses,
        longest: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._flights = flights
        self._guesses = guesses
        self._longest = longest
        self._clock = clock
        self._monotonic = monotonic
        self._granted: TLRUCache[_Key, float] = TLRUCache(
            _REMEMBERED, ttu=lambda _, until, __: until, timer=monotonic
        )

    async def require(
        self, scope: Scope, what: str, probe: Callable[[], Awaitable[object]]
    ) -> None:
        """Return when the client may pull from this repository; `probe` asks upstream for `what`.

        However many requests a client begins with, upstream is asked once.

        Raises:
            Denied, Missing: Upstream refuses this client, or will not tell it more.
            Unavailable: Upstream cannot be asked, and nothing is known: that is no permission. Or
                too many wrong passwords come from this client (429).
        """
        authorization = scope.authorization
        if authorization is None:
            return  # the mirror's own credentials decide
        # Not the secret itself: a memory dump should not hold everybody's tokens.
        key = (scope.repository, hashlib.sha256(authorization.encode()).digest())
        if key in self._granted:
            return

        is_guess = is_password(authorization)

        async def ask() -> None:
            with self._guesses.trying(client.get()) if is_guess else nullcontext():
                await probe()  # "not found" is no permission: so do some registries say no
            life = min(life_of(authorization, now=self._clock()), self._longest)
            self._granted[key] = self._monotonic() + life

        is_joining = self._flights.is_running(key)
        try:
            await self._flights.join(key, ask)
        except Missing:
            if not is_joining:
                raise
            # What another request asked for is missing; that says nothing of what this one wants.
            await self._flights.join((key, what), ask)


def life_of(authorization: str, *, now: float) -> float:
    """Seconds for which to believe that a token is accepted (a JWT: RFC 7519, 4.1.4 and 4.1.6).

    However wrong this clock is, no token is believed for longer than its whole life.
    """
    try:
        payload = authorization.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        ends = float(claims["exp"])
        whole = ends - float(claims.get("iat", -math.inf))
        return max(0.0, min(ends - now, whole, _LONGEST))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return _LIFE
