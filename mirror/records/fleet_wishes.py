"""What operators have asked for, of several mirrors: a pin holds at every one of them.

What is to be fetched beforehand is fetched by the mirror that was asked; the others have it then
from what all have in common.
"""

from mirror.records.untold import Pinned, Unpinned, Untold
from mirror.records.wishes import PinRecord, Wishes
from mirror.shared.database import Database


class FleetWishes:
    """The port `Wishes`: `own` are on this disk."""

    def __init__(self, own: Wishes, untold: Untold, database: Database) -> None:
        self._own = own
        self._untold = untold
        self._database = database
        self.list_pins = own.list_pins
        self.list_warmings = own.list_warmings
        self.record_warming = own.record_warming
        self.forget_warming = own.forget_warming

    async def record_pin(self, pin: PinRecord) -> None:
        """An image is pinned, or is so in another way than before."""
        await self._own.record_pin(pin)
        await self._tell(pin)

    async def forget_pin(self, image: str) -> None:
        """It no longer is."""
        await self._own.forget_pin(image)
        await self._untold.add(Unpinned(image))

    async def bring_own(self) -> None:
        """Have all know what was pinned here before there were others. Raises StoreError."""
        for pin in await self._own.list_pins():
            await self._tell(pin)

    async def take_over(self) -> bool:
        """Have here what all have pinned; whether that is done, or too much is untold yet.

        Raises StoreError.
        """
        if self._untold.more.is_set():
            return False
        rows = await self._database.fetch("SELECT image, platforms, refresh FROM mirror.pins")
        if self._untold.more.is_set():
            return False
        told = {
            image: PinRecord(image, tuple(filter(None, platforms.split(","))), refresh)
            for image, platforms, refresh in rows
        }
        own = {pin.image: pin for pin in await self._own.list_pins()}
        for image in own.keys() - told.keys():
            await self._own.forget_pin(image)
        for image, pin in told.items():
            if own.get(image) != pin:
                await self._own.record_pin(pin)
        return True

    async def _tell(self, pin: PinRecord) -> None:
        await self._untold.add(Pinned(pin.image, tuple(pin.platforms), pin.refresh))
