"""Links of a store whose records were lost: the mirror asks for them when it starts."""

import time
from collections.abc import Sequence
from pathlib import Path

from mirror.oci.image import parse_images
from mirror.operate.image_lists import read_images
from mirror.pull.warm.warming import note_to_confirm
from mirror.records.wishes import Wishes

_wall_clock = time.time  # noqa: TID251 - commands live by the machine's clock


def find_names(images: Sequence[str], files: Sequence[Path]) -> list[str]:
    """The images that somebody names, one by one and in lists. Raises ValueError, OSError."""
    names = [*images, *(name for file in files for name in read_images(file))]
    return [str(parse_images(name)) for name in names]


async def relink(wishes: Wishes, images: Sequence[str]) -> None:
    """Have upstream confirm these images, and what is pinned by command. Raises StoreError."""
    names = dict.fromkeys([*images, *(pin.image for pin in await wishes.list_pins())])
    if names:
        await note_to_confirm(wishes, list(names), now=_wall_clock())
