"""How far the fetching of images has come, as operators are told."""

from dataclasses import dataclass, field
from enum import StrEnum

from mirror.oci.digest import Digest


class State(StrEnum):
    """Of an image that is fetched; `pausing`: upstream has asked for that, or does not answer."""

    WAITING = "waiting"
    ASKING = "asking"
    FETCHING = "fetching"
    PAUSING = "pausing"
    DONE = "done"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self in {State.DONE, State.FAILED}


@dataclass(slots=True, eq=False)
class Warmed:
    """One image. Sizes in bytes, by manifests' words; `seconds` once it is over."""

    image: str
    state: State = State.WAITING
    trouble: str | None = None
    blobs: int = 0
    size: int = 0
    here_blobs: int = 0  # before it began
    here_size: int = 0
    fetched_blobs: int = 0
    fetched_size: int = 0  # of these
    under_way: dict[Digest, int] = field(default_factory=dict)
    upstream: str = ""
    seconds: float = 0.0
