"""What a worker is lent."""

from dataclasses import dataclass
from io import FileIO

from mirror.pull.answers import Outcome, Progress


@dataclass(frozen=True, slots=True)
class Loan:
    """An open blob, as it travels: what a worker needs to send it.

    `content` is there for a small blob; else `file` and its `progress`; else it is streamed. By
    its `number` the desk is asked for more. `size` is in bytes, None where nobody knows it yet.
    """

    number: int
    size: int | None
    outcome: Outcome
    content: bytes | None = None
    file: FileIO | None = None
    progress: Progress | None = None

    def close(self) -> None:
        """Close the receiver's own file."""
        if self.file is not None:
            self.file.close()
