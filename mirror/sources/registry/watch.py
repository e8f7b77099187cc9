"""What goes wrong with a question, and what that tells of the endpoint that was asked."""

from typing import Protocol

from mirror.oci.errors import RegistryError, Unavailable
from mirror.sources.registry.exchange import Exchange
from mirror.sources.registry.health import Question, Trouble
from mirror.sources.registry.status import OfStorage

SERVER_ERROR = 500
"""A status from here on is trouble of the server's own."""


class Watched(Protocol):
    """An endpoint, as far as it is watched."""

    exchange: Exchange
    answered: int

    def note(self, question: Question | None, error: RegistryError, *, is_alone: bool) -> None:
        """Draw conclusions from it."""


class Watch:
    """Tells the endpoint how it fared with what goes wrong inside the block."""

    def __init__(self, endpoint: Watched, question: Question | None) -> None:
        self._endpoint = endpoint
        self._question = question
        self._received = endpoint.exchange.received
        self._answered = endpoint.answered

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RegistryError) and not self._is_congestion(error):
            is_alone = self._endpoint.answered > self._answered
            self._endpoint.note(self._question, error, is_alone=is_alone)

    def _is_congestion(self, error: RegistryError) -> bool:
        """An endpoint that sends bytes to others meanwhile is there: the line is full."""
        is_late = isinstance(error, Unavailable) and error.timed_out
        return is_late and self._endpoint.exchange.received > self._received


def trouble_of(error: RegistryError, *, is_alone: bool) -> Trouble | None:
    """What an error tells of the endpoint; None where it is an answer."""
    if not isinstance(error, Unavailable) or isinstance(error, OfStorage):
        return None
    if error.status_seen is None:
        return Trouble.SLOW if error.timed_out and is_alone else Trouble.UNREACHABLE
    return Trouble.ERROR if error.status_seen >= SERVER_ERROR else None
