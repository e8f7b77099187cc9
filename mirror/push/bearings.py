"""Where a course is at the registry, and what is left to try where it gets no further. Pure.

the registry                          then
has forgotten the upload              it begins anew, with `caution` where the line was cut
says that the upload is invalid       the same, once: some mean by it that it is over
says 413                              less is sent at once
takes no part of a blob, or has put   it begins anew, in one request
the parts together in another way
cannot be reached, or breaks          it is asked how far it has come, a little later each time
that it is no further
keeps little of what it is sent       less is sent at once; it ends where that is no remedy
"""

from mirror.oci.errors import ErrorCode, Refused, RegistryError
from mirror.pull.fill.retries import Failure, RetryPolicy, Streak
from mirror.push.caution import Caution
from mirror.sources.targets import Standing

_TOO_LARGE = 413  # some refuse the size of a request, and not that of the blob
_LITTLE = 4  # times what is kept, sent for it
_MOST_LOST = 4  # times what there is to send, beside what is kept
_LOST_AT_LEAST = 2**20  # bytes; where there is little to send, that says nothing


class Bearings:
    """Of one course. `must_ask`: nobody knows how far it is before the registry has said so."""

    def __init__(
        self, caution: Caution, policy: RetryPolicy, standing: Standing | None, *, must_ask: bool
    ) -> None:
        self.standing = standing
        self.sent = 0 if standing is None else standing.offset  # as far as that was begun
        self.must_ask = must_ask
        self.was_left = False  # in the middle of a request whose length somebody had told
        self._caution = caution
        self._policy = policy
        self._is_cut = True  # by the line, if the last request has broken
        self._is_resumed = False
        self._was_invalid = False
        self._streak = Streak(0)
        self._restarts = 0
        self._reach = 0  # bytes: the furthest that anything was sent
        self._lost = 0  # bytes that were sent and not kept, where some were
        self._lost_now = 0  # the same, since the registry has last kept any

    @property
    def offset(self) -> int:
        """Bytes that the registry has, by its own word."""
        return 0 if self.standing is None else self.standing.offset

    @property
    def least(self) -> int:
        """Bytes that it wants to have in one request, before it takes any."""
        return 0 if self.standing is None else self.standing.least

    def found(self, standing: Standing, *, now: float) -> None:
        """It has said where it is, in a new upload or a known one.

        Raises:
            RegistryError: It keeps so little of what it is sent that this would not end.
        """
        before, sent = self.offset, self.sent
        self.must_ask, self.standing, self.sent = False, standing, standing.offset
        self._note_lost(before, sent, now=now)

    def resumed(self, standing: Standing, *, now: float) -> None:
        """The same, after something went wrong. Raises RegistryError, as `found` does."""
        self._is_resumed = True
        self.found(standing, now=now)

    def _note_lost(self, before: int, sent: int, *, now: float) -> None:
        """Of what was sent from `before` on, as far as `sent`.

        A line that is cut costs what was on its way; and what is not kept at all ends with the
        patience for that. It is what gets a little further each time that would have no end.
        """
        self._reach = max(self._reach, sent)
        self._lost_now += max(0, sent - self.offset)
        kept = self.offset - before
        if kept <= 0:
            return
        self._lost += min(self._lost_now, self._reach)  # an outage may have come before
        self._lost_now = 0
        if self._lost > max(_LOST_AT_LEAST, _MOST_LOST * self._reach):
            raise RegistryError(
                ErrorCode.UNKNOWN,
                f"upstream keeps too little of what it is sent: {self.offset} bytes of it,"
                f" and {self._lost} were lost",
            )
        if self._lost > self._reach and (sent - before) > _LITTLE * kept:
            self._caution.note_forgotten(2 * kept, now=now)

    def sending(self, standing: Standing) -> None:
        """More is on its way from there; nobody knows what comes of it."""
        self.sent, self.must_ask, self._is_cut = standing.offset, True, True

    def left(self) -> None:
        """Whoever has told a length has left before: what breaks says nothing of the line."""
        self.was_left, self._is_cut = True, False

    def begin_anew(self, *, now: float) -> bool:
        """The registry has forgotten it; False: it will for ever."""
        self._restarts += 1
        if self._restarts > self._policy.attempts or self.standing is None:
            return False
        if self._is_cut:
            self._caution.note_forgotten(self.sent - self.standing.offset, now=now)
        self.standing, self.must_ask, self.sent = None, False, 0
        return True

    def refused(self, error: Refused, *, size: int, now: float) -> bool:
        """Whether what the registry refuses can be had in another way, which is tried then.

        Some proxies before registries bound a request, and not a blob; and a registry that cannot
        go on where it was has something else than what it was sent.
        """
        standing = self.standing
        self._restarts += 1
        if standing is None or self._restarts > self._policy.attempts:
            return False
        if error.status == _TOO_LARGE:
            before = self._caution.at(now)
            self._caution.note_forgotten(self.sent - standing.offset, now=now)
            return self._caution.chunk != before
        codes = {it.get("code") for it in error.errors}
        if ErrorCode.BLOB_UPLOAD_INVALID in codes and not self._was_invalid:
            self._was_invalid = True
            if standing.offset:  # parts say where they belong
                self._caution.note_forgotten(self.sent - standing.offset, now=now)
            self._leave()
            return True
        is_digest = ErrorCode.DIGEST_INVALID in codes
        if standing.offset < size or (self._is_resumed and is_digest):
            # It takes no part of a blob; or it has put the parts together in another way.
            if not standing.offset and not self._is_resumed:
                return False
            self._caution.note_no_parts(now=now)
            self._leave()
            return True
        return False

    def _leave(self) -> None:
        """All of it goes in a new upload."""
        self.standing, self.must_ask, self._is_resumed, self.sent = None, False, False, 0

    def broke(self, *, retry_after: float, roll: float) -> float | None:
        """Seconds until it is tried again; None: not before somebody asks for it."""
        # What was sent is no progress where upstream keeps none of it.
        failures = self._streak.add(self.offset)
        wait = self._policy.decide(
            Failure.BROKEN, failures, has_begun=True, wait=retry_after, roll=roll
        )
        self.must_ask = self.standing is not None
        if wait is None:
            self._streak = Streak(0)
        return wait
