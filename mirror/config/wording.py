"""What is wrong with a configuration, in an operator's words."""

import difflib
import re
from typing import Any

from pydantic import ValidationError

from mirror.config.notify import Notify
from mirror.config.pins import Pin
from mirror.config.sections import Config
from mirror.config.shared import Shared
from mirror.config.upstreams import Endpoint, Upstream
from mirror.config.warm import Warm


def explain(error: ValidationError) -> list[str]:
    """A line for everything that is wrong: where, what, and for an unknown key the nearest one."""
    return [
        _explain([part for part in detail["loc"] if part != "[key]"], detail["type"], detail["msg"])
        for detail in error.errors(include_url=False, include_input=False)
    ]


_WORDS = {
    "missing": "is required",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
}
"""Pydantic's kinds of error that it words for programmers."""


def _explain(location: list[int | str], kind: str, message: str) -> str:
    path = _path(location)
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        return f"{path}: unknown key" + (f"; did you mean {nearest[0]}?" if nearest else "")
    message = _WORDS.get(kind, message)
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{path}: {message}" if path else message


def _path(location: list[int | str]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]+", part):
            text += f".{part}"
        else:
            text += f'."{part}"'
    return text.removeprefix(".")


def _known_keys(location: list[int | str]) -> list[str]:
    """The keys that the table at `location` may hold."""
    match location:
        case []:
            section: Any = Config
        case ["upstream", _]:
            section = Upstream
        case ["upstream", _, "endpoints", _]:
            section = Endpoint
        case ["pin", _]:
            section = Pin
        case ["warm", _]:
            section = Warm
        case ["shared"]:
            section = Shared
        case ["notify", _]:
            section = Notify
        case _:
            section = Config.model_fields[str(location[0])].annotation
    return list(section.model_fields)
