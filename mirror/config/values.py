"""Values of settings: what each kind of them may be, and how it is written."""

import ipaddress
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationInfo,
)

from mirror.config.units import (
    format_duration,
    format_listen,
    format_size,
    parse_duration,
    parse_host,
    parse_listen,
    parse_listens,
    parse_network,
    parse_size,
)

UNOPENED = object()
"""The context of a validation that opens no file: they may be for another user's eyes."""


def _without_tilde(path: Path) -> Path:
    if path.parts[:1] and path.parts[0].startswith("~"):
        raise ValueError('only shells know what "~" is; write the whole path')
    return path


def _readable_file(path: Path, info: ValidationInfo) -> Path:
    """See that it can be read, by who will (`UNOPENED`: others do). Raises ValueError."""
    if info.context is UNOPENED:
        return path
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        where = "" if path.is_absolute() else f" (relative to {Path.cwd()})"
        raise ValueError(f"cannot be read: {error.strerror}{where}") from error


def not_zero(amount: float) -> float:
    """See that there is some of it. Raises ValueError."""
    if not amount:
        raise ValueError("must be more than zero")
    return amount


def _as_written(addresses: tuple[tuple[str, int], ...]) -> str | list[str]:
    written = [format_listen(address) for address in addresses]
    return written[0] if len(written) == 1 else written


Count = Annotated[int, Strict(), Field(ge=1)]
Flag = Annotated[bool, Strict()]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size)]
Duration = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Timeout = Annotated[Duration, AfterValidator(not_zero)]
Listen = Annotated[tuple[str, int], BeforeValidator(parse_listen), PlainSerializer(format_listen)]
Listens = Annotated[
    tuple[tuple[str, int], ...], BeforeValidator(parse_listens), PlainSerializer(_as_written)
]
"""One address or a list of them, written so in the file."""

Directory = Annotated[Path, AfterValidator(_without_tilde), PlainSerializer(str)]
ReadableFile = Annotated[
    Path, AfterValidator(_without_tilde), AfterValidator(_readable_file), PlainSerializer(str)
]
Host = Annotated[str, AfterValidator(parse_host)]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(parse_network),
    PlainSerializer(str),
]


class Section(BaseModel):
    """A table of the configuration file: closed, and frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))
