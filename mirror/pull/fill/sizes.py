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

    def accepts(self, size: int | None, *, reach: int) -> bool:
        """Whether to take a body whose sender tells this size (None: it tells none).

        There are bytes up to `reach` already. True for a size that lies before it means that nobody
        sends what is there.
        """
        if size is None:
            return True
        if self.told is not None:
            return size == self.told
        if size >= reach and (self._has_begun or self.promised in {None, size}):
            return True
        refuses = self._has_begun or not self._has_refused
        self._has_refused = True
        return not refuses

    def begin(self, size: int | None) -> None:
        """A body is taken whose sender tells this size."""
        if self.told is None and size is not None:
            self.told = size
            self.is_odd |= not self._has_begun and self.promised not in {None, size}
        self._has_begun = True
