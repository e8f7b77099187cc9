"""Which client may pull what from an `access = "client"` upstream.

The mirror has no opinion of its own: it asks upstream once with the client's own `Authorization`,
and believes the answer for the life of that token.
"""

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable

from cachetools import TLRUCache

from mirror.oci.reference import Repository
from mirror.sources.registry.endpoint import Scope

_LIFE = 60.0  # seconds, for what tells nothing of its life
_LONGEST = 3600.0  # seconds
_REMEMBERED = 65536

_Key = tuple[Repository, bytes]


class Grants:
    """What upstream has accepted, until when. `clock` in seconds since the epoch, as in tokens."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._granted: TLRUCache[_Key, float] = TLRUCache(
            _REMEMBERED, ttu=lambda _, until, __: until, timer=clock
        )

    async def require(self, scope: Scope, probe: Callable[[], Awaitable[object]]) -> None:
        """Return when the client may pull from this repository; `probe` asks upstream.

        Raises:
            Denied, Missing: Upstream refuses this client, or will not tell it more.
            Unavailable: Upstream cannot be asked, and nothing is known: that is no permission.
        """
        if scope.authorization is None:
            return  # the mirror's own credentials decide
        # Not the secret itself: a memory dump should not hold everybody's tokens.
        secret = hashlib.sha256(scope.authorization.encode()).digest()
        key = (scope.repository, secret)
        if key in self._granted:
            return
        await probe()  # "not found" is no permission: that is how some registries say no
        now = self._clock()
        self._granted[key] = now + life_of(scope.authorization, now=now)


def life_of(authorization: str, *, now: float) -> float:
    """Seconds for which to believe that a token is accepted (`exp` of a JWT, RFC 7519, 4.1.4)."""
    try:
        payload = authorization.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return max(0.0, min(float(claims["exp"]) - now, _LONGEST))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return _LIFE
