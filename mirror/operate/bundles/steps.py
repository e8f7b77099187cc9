"""What happens during an export or an import, told in steps; with `--json`, each is a line."""

from typing import Literal

from msgspec import Struct

from mirror.control.verify import Total


class Exported(Struct, frozen=True, tag="exported", tag_field="step"):
    """An image is in the bundle, for these platforms where it is for several."""

    image: str
    digest: str
    platforms: list[str]


class Imported(Struct, frozen=True, tag="imported", tag_field="step"):
    """What has become of an image of a bundle.

    imported    it can be pulled
    partly      for some platforms; others that are in the bundle lack what is `missing`
    newer       the same, by its digest; what its tag means was learnt later here, and stays so
    incomplete  it cannot be served: `missing` says what is neither in the bundle nor here
    refused     `reason` says why
    """

    image: str
    outcome: Literal["imported", "partly", "newer", "incomplete", "refused"]
    missing: list[str] = []
    reason: str = ""


class Moved(Struct, frozen=True, tag="blob", tag_field="step"):
    """A blob has been written, here or into the bundle; was here already; or is something else.

    `size` in bytes.
    """

    digest: str
    size: int
    outcome: Literal["written", "present", "damaged"]


class Lacking(Struct, frozen=True, tag="lacking", tag_field="step"):
    """An image cannot be exported: this of it is not here, or not for its repository."""

    image: str
    missing: list[str]


class Done(Struct, frozen=True, tag="done", tag_field="step"):
    """All is done: `left_out` blobs were left to another bundle, or were here (of an import)."""

    images: int
    written: int
    bytes: int
    left_out: int


BundleStep = Total | Exported | Imported | Moved | Lacking | Done
