"""What can be wrong with the disk."""

from mirror.oci.errors import ErrorCode, RegistryError


class StoreError(RegistryError):
    """The store cannot be used; its text says what an operator can do about it.

    A client learns less: paths are none of its business.
    """

    def __init__(self, explanation: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, "the mirror's store has a fault; see its log")
        self.explanation = explanation

    def __str__(self) -> str:
        return self.explanation


class NoRoom(StoreError):
    """The blob cannot be kept within the limits: it is streamed through instead."""


class TooLarge(NoRoom):
    """The blob is larger than the store may ever be."""
