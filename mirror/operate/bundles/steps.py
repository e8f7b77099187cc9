"""What happens during an export or an import, told in steps; with `--json`, each is a line."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from mirror.control.verify import Total


class Meter:
    """Told of bytes as they pass, within blobs too; whoever shows them sets `advance`."""

    def __init__(self) -> None:
        self.advance: Callable[[int], object] = lambda _: None


class Exported(Struct, frozen=True, tag="exported", tag_field="step"):
    """An image is in the bundle, for these platforms where it is for several.

    So are so many `referrers`; others that upstream has told of are `absent`: they are not here.
    """

    image: str
    digest: str
    platforms: list[str]
    referrers: int = 0
    absent: list[str] = []


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


class Accompanied(Struct, frozen=True, tag="referrers", tag_field="step"):
    """What has become of what refers to an image; as with `Imported`.

    `image` is what it refers to, by digest, or the tag that it has.
    """

    image: str
    outcome: Literal["imported", "newer", "incomplete", "refused"]
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


BundleStep = Total | Exported | Imported | Accompanied | Moved | Lacking | Done
