"""Where HEAD of a manifest, or of a blob, is of no use, though GET is. Pure.

    state       HEAD is sent   HEAD is refused   GET of the same has an answer
    trusted     yes            suspected         -
    suspected   yes            suspected         useless
    useless     no             -                 -

Some registries, and what stands before them, answer HEAD with 401, 403, 404, 400, 405 or 501 where
they answer GET. For each repository by itself, and for a while: a GET may count as a pull (of a
manifest; of a blob it is for one byte). So a 500 counts of a blob alone: it may be a moment's.
"""

from collections.abc import Callable

from cachetools import TTLCache

_REMEMBERED = 1024  # repositories
_USELESS_FOR = 3600.0  # seconds
_SUSPECTED_FOR = 60.0  # seconds; the GET follows at once


class Heads:
    """What is thought of HEAD at one endpoint, by repository, by a monotonic `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._suspected: TTLCache[tuple[str, str], bool] = TTLCache(
            _REMEMBERED, ttl=_SUSPECTED_FOR, timer=clock
        )
        self._useless: TTLCache[str, bool] = TTLCache(_REMEMBERED, ttl=_USELESS_FOR, timer=clock)

    def are_useful(self, repository: str) -> bool:
        """Whether to ask by HEAD."""
        return repository not in self._useless

    def refused(self, repository: str, reference: str) -> None:
        """HEAD was refused: GET decides."""
        self._suspected[repository, reference] = True

    def answered_by_get(self, repository: str, reference: str) -> None:
        """GET has an answer."""
        if self._suspected.pop((repository, reference), False):
            self._useless[repository] = True
