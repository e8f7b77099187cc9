"""What is remembered within so many bytes of memory, however long the names are that others choose.

A cache that counts entries holds as much as its longest keys and values make of it, and those are
for strangers to choose: clients ask for repositories, registries send tokens. So each entry is
weighed, by its texts and by what Python takes for it beside them.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from cachetools import LRUCache, TTLCache

_K = TypeVar("_K")
_V = TypeVar("_V")

ENTRY = 700
"""Bytes that an entry of a few small objects takes beside its texts (measured on Python 3.11)."""


class LruBytes(LRUCache[_K, _V]):
    """The least recently used goes where all would take more than `size` bytes.

    `weigh` gives the bytes of an entry's texts. What is larger than all of it is not kept.
    """

    def __init__(self, size: int, weigh: Callable[[_K, _V], int]) -> None:
        self._coming = 0
        super().__init__(size, getsizeof=lambda _: self._coming)
        self._weigh = weigh

    def __setitem__(self, key: _K, value: _V) -> None:
        """Remember it, if it has room at all."""
        self._coming = ENTRY + self._weigh(key, value)
        if self._coming <= self.maxsize:
            super().__setitem__(key, value)
        else:
            self.pop(key, None)


class TtlBytes(TTLCache[_K, _V]):
    """As `LruBytes`, and each for `ttl` seconds by the monotonic `timer`."""

    def __init__(
        self,
        size: int,
        weigh: Callable[[_K, _V], int],
        *,
        ttl: float,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._coming = 0
        super().__init__(size, ttl, timer, getsizeof=lambda _: self._coming)
        self._weigh = weigh

    def __setitem__(self, key: _K, value: _V) -> None:
        """Remember it, if it has room at all."""
        self._coming = ENTRY + self._weigh(key, value)
        if self._coming <= self.maxsize:
            super().__setitem__(key, value)
        else:
            self.pop(key, None)
