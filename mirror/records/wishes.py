"""What operators have asked for: images that are pinned, and those to be fetched beforehand.

It stands beside what registries have said, and not in the index of the disk: that is made anew from
the disk where it is lost, and no disk tells what somebody wanted.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from mirror.sqlite import Database, Statement


class PinRecord(Struct, frozen=True):
    """An image that is pinned by command: all of `platforms`, or (none) every one of them.

    Upstream is asked every `refresh` seconds what its tag means.
    """

    image: str
    platforms: Sequence[str] = ()
    refresh: float = 3600.0


class Wishes(Protocol):
    """All methods raise StoreError where it cannot be kept or read."""

    async def list_pins(self) -> list[PinRecord]:
        """Everything that is pinned by command, in the order of the names."""

    async def record_pin(self, pin: PinRecord) -> None:
        """An image is pinned, or is so in another way than before."""

    async def forget_pin(self, image: str) -> None:
        """It no longer is."""

    async def list_warmings(self) -> dict[str, bytes]:
        """What was to be fetched, and what has come of it, by name."""

    async def record_warming(self, name: str, document: bytes) -> None:
        """That stands so now."""

    async def forget_warming(self, name: str) -> None:
        """Nobody needs to know of it any more."""


class SqliteWishes:
    """In the file of the records."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_pins(self) -> list[PinRecord]:
        """As the port says."""
        return await self._database.rows(
            "SELECT image, platforms, refresh FROM pins ORDER BY image",
            (),
            lambda image, platforms, refresh: PinRecord(
                image, tuple(filter(None, platforms.split(","))), refresh
            ),
        )

    async def record_pin(self, pin: PinRecord) -> None:
        """As the port says."""
        row = (pin.image, ",".join(pin.platforms), pin.refresh)
        await self._database.write(Statement("INSERT OR REPLACE INTO pins VALUES (?, ?, ?)", [row]))

    async def forget_pin(self, image: str) -> None:
        """As the port says."""
        await self._database.write(Statement("DELETE FROM pins WHERE image = ?", [(image,)]))

    async def list_warmings(self) -> dict[str, bytes]:
        """As the port says."""
        rows = await self._database.rows(
            "SELECT name, document FROM warmings ORDER BY name",
            (),
            lambda name, document: (str(name), bytes(document)),
        )
        return dict(rows)

    async def record_warming(self, name: str, document: bytes) -> None:
        """As the port says."""
        await self._database.write(
            Statement("INSERT OR REPLACE INTO warmings VALUES (?, ?)", [(name, document)])
        )

    async def forget_warming(self, name: str) -> None:
        """As the port says."""
        await self._database.write(Statement("DELETE FROM warmings WHERE name = ?", [(name,)]))
