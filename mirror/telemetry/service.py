"""What a service manager is told (sd_notify(3)), and what processes are called.

Where nobody wants to know, nothing is told.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_EVERY = 5.0  # seconds between looks at what there is to tell
_ARG_START = 45  # of the fields of stat that follow the program's name (proc(5)): 48th of all
_LONGEST_NAME = 15  # characters that the kernel keeps of a thread's name (prctl(2))


class ServiceManager:
    """Told over a datagram socket at `address` ("": nobody), which begins with "@" if abstract.

    `watchdog`: after so many seconds without a word, we count as hung; 0: never.
    """

    def __init__(self, address: str, watchdog: float) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog = watchdog

    def tell(self, **state: str) -> None:
        """Tell it this, such as READY="1"."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in state.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)
            to.sendto(text.encode(), self._address)

    def reloading(self) -> None:
        """Settings are being read anew; READY follows."""
        self.tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    async def keep_telling(self, look: Callable[[], str]) -> None:
        """Tell what `look` finds whenever that is another, and that the event loop turns."""
        if not self._address:
            return
        interval = min(_EVERY, self._watchdog / 2) if self._watchdog else _EVERY
        told = ""
        while True:
            status = look()
            if self._watchdog:
                self.tell(WATCHDOG="1")
            if status != told:
                self.tell(STATUS=status)
                told = status
            await asyncio.sleep(interval)


def call_this_process(title: str) -> None:
    """Have `ps` and `top` show this process under a title, such as "mirror: worker 1".

    The arguments that it was started with are overwritten in place, as far as there is room.
    """
    own = Path("/proc/self")
    with suppress(OSError, ValueError, IndexError):
        (own / "comm").write_text(title.replace(":", "")[:_LONGEST_NAME])
        fields = (own / "stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_START + 1])
        with (own / "mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(title.encode()[: end - start - 1].ljust(end - start, b"\0"))
