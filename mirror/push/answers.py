"""What the mirror answers to a push, and is lent for it, before it becomes HTTP."""

from socket import socket
from typing import Annotated

from msgspec import Meta, Struct

from mirror.oci.digest import Digest, Subject

MOST_PATIENCE = 2.0**31
"""Seconds, of a `Loan`."""

_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class UploadState(Struct, frozen=True, array_like=True):
    """An upload under the name by which its client knows it: so many bytes of it are here.

    `least`: no chunk but the last may be shorter, by the registry's word (0: any).
    """

    identity: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    offset: _Number
    least: _Number = 0


class PushedManifest(Struct, frozen=True, array_like=True):
    """A manifest that the registry has: under which digest, and of which subject by its word."""

    digest: Digest
    subject: Subject | None = None


class Loan(Struct, frozen=True, array_like=True):
    """A client's connection, over which so many bytes of an upload are still to come.

    The client has `patience` seconds to bring some.
    """

    connection: socket
    length: Annotated[int, Meta(ge=0)]  # as long as a client says, which may be 2**64 - 2
    patience: Annotated[float, Meta(ge=0, le=MOST_PATIENCE)]
