"""What ends a fill, and what follows from that. Pure.

what ends it                                      it counts as       what is written
Unavailable: no answer, or no bytes               unavailable        is continued
Rested: nobody wants the rest                     rested             is continued
Missing, Denied: upstream's word                  missing, denied    is continued
DigestMismatch: it is not the blob                mismatch           goes
NoRoom: the limits, or the disk                   no_room            goes, since others need the
                                                                     room; but not what was here
                                                                     before, and is no more now
another StoreError                                failed             goes
a fault of our own: for readers, Unavailable      unavailable        goes
that it is stopped (cancelled)                    stopped            is continued
"""

from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    Missing,
    RegistryError,
    StoreError,
    Unavailable,
)
from mirror.pull.fill.crew import Rested
from mirror.storage.errors import NoRoom
from mirror.telemetry.metrics import FillOutcome

_CONTINUED = (Unavailable, Missing, Denied)

_OUTCOMES: dict[type[RegistryError], FillOutcome] = {
    NoRoom: FillOutcome.NO_ROOM,
    DigestMismatch: FillOutcome.MISMATCH,
    Rested: FillOutcome.RESTED,
    Missing: FillOutcome.MISSING,
    Denied: FillOutcome.DENIED,
    Unavailable: FillOutcome.UNAVAILABLE,
}  # the first that it is


def outcome_of(error: RegistryError) -> FillOutcome:
    """What a fill that this has ended counts as."""
    kinds = (kind for kind in _OUTCOMES if isinstance(error, kind))
    return _OUTCOMES.get(next(kinds, StoreError), FillOutcome.FAILED)


def is_continued(error: BaseException, *, has_received: bool) -> bool:
    """Whether what is written waits for who asks again; `has_received`: some of it is new."""
    if isinstance(error, NoRoom):
        return not has_received
    return isinstance(error, _CONTINUED) or not isinstance(error, Exception)
