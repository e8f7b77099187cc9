"""What the mirror answers to a push, before it becomes HTTP."""

from typing import Annotated

from msgspec import Meta, Struct

from mirror.oci.digest import Digest, Subject

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
