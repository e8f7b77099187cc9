"""What was found, in words for whoever runs the mirror. Pure."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    `error`: the mirror cannot do what it is configured to; `warning`: it can, and probably not what
    was meant. `where` is the setting, as it is written in the file.
    """

    level: Level
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.text}"
