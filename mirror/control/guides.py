"""What operators are shown of clients: how each kind of them is told of this mirror."""

from collections.abc import Callable, Sequence

from mirror.config import Config

MakeGuides = Callable[[Config, str | None], Sequence[tuple[str, str]]]
"""Titles and texts for clients of a mirror with this configuration, at an address (None: guessed).

Raises ValueError, OSError.
"""
