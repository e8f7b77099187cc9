"""What imports have brought, or count on, while the images that need it are on no record yet.

Nothing is linked to it until then, however long an import takes: collecting leaves it alone. What
an import has left behind that broke off is anybody's again after a day without a word of any.
"""

from collections.abc import Callable, Collection

from mirror.oci.digest import Digest

_SILENT = 86400.0  # seconds
_MOST = 100_000  # digests; some 20 MB


class Arriving:
    """These digests: a collection that collecting asks. `clock` is steady."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._digests: dict[Digest, None] = {}
        self._heard_at = clock()

    def __contains__(self, digest: object) -> bool:
        self._forget_what_was_left()
        return digest in self._digests

    def note(self, digests: Collection[Digest]) -> None:
        """These are needed by an image that is on its way."""
        self._forget_what_was_left()
        self._heard_at = self._clock()
        for digest in digests:
            self._digests.pop(digest, None)
            self._digests[digest] = None
        while len(self._digests) > _MOST:
            del self._digests[next(iter(self._digests))]

    def settle(self, digests: Collection[Digest]) -> None:
        """Records name these now."""
        for digest in digests:
            self._digests.pop(digest, None)

    def _forget_what_was_left(self) -> None:
        if self._clock() - self._heard_at > _SILENT:
            self._digests.clear()
