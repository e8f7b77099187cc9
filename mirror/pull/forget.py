"""Forgetting: what was removed, pushed, revoked or found damaged is served from no memory.

There are copies in several memories: the mirror's own and each worker's. Whoever changes what
they were made from says so here, after it has changed, and every memory drops its copy at once.
"""

from collections.abc import Callable

from msgspec import Struct

from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag


class TagOf(Struct, frozen=True, tag="tag of", array_like=True):
    """A tag of one repository."""

    repository: Repository
    name: Tag


class Moved(Struct, frozen=True, tag="moved", array_like=True):
    """A tag of one repository, of which another mirror has just learnt what it means."""

    repository: Repository
    name: Tag


Forgettable = Digest | TagOf | Moved | Repository
"""Content wherever it is served, what one tag means, or all that is known of a repository.

What is under way when a tag has `Moved` is kept all the same: it is as new as that.
"""


class Forgetting:
    """Tells every memory of it, in the same turn of the loop."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Forgettable], None]] = []

    def subscribe(self, listener: Callable[[Forgettable], None]) -> None:
        """Have `listener` told of what is to be forgotten from now on."""
        self._listeners.append(listener)

    def forget(self, what: Forgettable) -> None:
        """Whoever asks after this gets nothing that was remembered of it before."""
        for listener in self._listeners:
            listener(what)
