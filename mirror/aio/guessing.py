"""Who guesses passwords: so many wrong ones at once, and then as many as time allows. Pure.

People are wrong now and then, and so are machines that share an address; what was wrong a moment
ago, and is remembered, is no further guess.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from mirror.aio.allowance import Allowances
from mirror.oci.errors import Denied, ErrorCode, Unavailable

_WRONG = 20  # passwords at once
_PERIOD = 120.0  # seconds, for as many again


class Guesses:
    """Counts wrong passwords by who shows them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._allowances: Allowances[Hashable] = Allowances(_WRONG, _PERIOD, clock)

    def check(self, who: Hashable) -> None:
        """Return where they may try one more.

        Raises:
            Unavailable: Too many have been wrong (429).
        """
        wait = self._allowances.wait(who)
        if wait:
            raise Unavailable(
                "too many wrong passwords have come from your address",
                code=ErrorCode.TOOMANYREQUESTS,
                retry_after=wait,
            )

    def begin(self, who: Hashable) -> None:
        """One more password of theirs is tried; it counts as wrong until that is taken back.

        Raises:
            Unavailable: As `check`.
        """
        self.check(who)
        self._allowances.use(who)

    def take_back(self, who: Hashable) -> None:
        """It was not wrong, or nobody knows."""
        self._allowances.give_back(who)

    @contextmanager
    def trying(self, who: Hashable) -> Iterator[None]:
        """A password is tried inside the block; it is wrong where that ends in Denied (401)."""
        self.begin(who)
        is_wrong = False
        try:
            yield
        except Denied as error:
            is_wrong = error.code is ErrorCode.UNAUTHORIZED
            raise
        finally:
            if not is_wrong:
                self.take_back(who)


def is_password(authorization: str) -> bool:
    """Whether what a client has sent can be guessed: tokens cannot."""
    return authorization[:6].lower() == "basic "
