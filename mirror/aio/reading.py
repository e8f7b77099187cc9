"""Reading what a peer has sent, so that others have their turns meanwhile."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

LARGE = 2**18
"""Bytes; what is larger takes longer to read than a thread to start."""


async def read_aside(read: Callable[[bytes], _T], content: bytes) -> _T:
    """What `read` makes of `content`: at once, or in a thread where that is large.

    A thread is of use as far as `read` leaves the interpreter to others now and then.
    """
    return read(content) if len(content) <= LARGE else await asyncio.to_thread(read, content)
