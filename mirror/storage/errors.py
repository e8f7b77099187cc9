"""What cannot be kept."""

from mirror.oci.errors import StoreError


class NoRoom(StoreError):
    """The blob cannot be kept within the limits: it is streamed through instead."""


class TooLarge(NoRoom):
    """The blob is larger than the store may ever be."""
