"""What a blob's size is thought to be, and on whose word. Pure.

    promised   by a manifest, which anybody may write: it plans the connections
    told       by whoever sends the bytes: readers are told it too
    proved     by the digest

None of the first two is believed against the other. A sender that contradicts is left for others,
once; if it comes to it again nobody else can send the blob, and then its word is what there is.
Bytes that readers follow already are never given up for a sender that tells another size.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Sizes:
    """The sizes that one fill has heard of; in bytes."""

    promised: int | None
    told: int | None = None
    is_odd: bool = False  # what has been told is not what was promised
    _has_begun: bool = False
    _has_refused: bool = False

    def accepts(self, size: int | None) -> bool:
        """Whether to take a body whose sender tells this size (None: it tells none)."""
        if self.told is not None:
            return size in {None, self.told}
        if size is None or self._has_begun or size == self.promised or self.promised is None:
            return True
        return not self.refuses_once()

    def refuses_once(self) -> bool:
        """Whether to leave a sender that contradicts: the first time, for others."""
        refuses, self._has_refused = not self._has_refused, True
        return refuses

    def begin(self, size: int | None) -> None:
        """A body is taken whose sender tells this size."""
        if self.told is None and size is not None:
            self.told = size
            self.is_odd |= not self._has_begun and self.promised not in {None, size}
        self._has_begun = True
