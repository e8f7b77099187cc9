"""The grammar of single values: sizes, durations, addresses, networks, hosts.

Each `parse_` raises ValueError with words for an operator.
"""

import ipaddress
import re
from decimal import Decimal

_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,9})?)"
_SIZE = re.compile(rf"{_NUMBER}\s*([KMGT]i?B|B)")
_DURATION_PART = re.compile(rf"{_NUMBER}(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_LISTEN = re.compile(r"(?:\[(?P<ip6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>[0-9]{1,5})")
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"  # of a repository's name (OCI distribution-spec)
_PREFIX = re.compile(rf"{_PART}(?:/{_PART})*")
_LAST_PORT = 65535
_SIZE_UNITS = {
    "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_MEASURES = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
_DURATION_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def parse_size(text: object) -> int:
    """`"100 GiB"` in bytes. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError('not a size; write it like "512 MiB" or "100 GB"')
    return int(Decimal(match[1]) * _SIZE_UNITS[match[2]])


def rounded_size(amount: float) -> str:
    """Bytes that were measured, rounded, in a unit that fits, such as "1.5 MiB"."""
    units = iter(_MEASURES)
    unit = next(units)
    while amount >= _STEP and (larger := next(units, None)) is not None:
        amount, unit = amount / _STEP, larger
    return f"{int(amount)} B" if unit == "B" else f"{amount:.1f} {unit}"


def format_size(size: int) -> str:
    """The shortest exact way to write `size` bytes."""
    exact = (
        f"{size // length} {unit}"
        for unit, length in reversed(_SIZE_UNITS.items())
        if size % length == 0 and (size or unit == "B")
    )
    return min(exact, key=lambda text: len(text.partition(" ")[0]))


def parse_duration(text: object) -> float:
    """`"1m30s"` in seconds. Raises ValueError."""
    if not isinstance(text, str) or _DURATION.fullmatch(text.strip()) is None:
        raise ValueError('not a duration; write it like "500ms", "30s", "1m30s" or "30d"')
    parts = _DURATION_PART.findall(text)
    return float(sum(Decimal(number) * _DURATION_UNITS[unit] for number, unit in parts) / 1000)


def format_duration(seconds: float) -> str:
    """The shortest exact way to write a duration."""
    milliseconds = round(seconds * 1000)
    for unit, length in _DURATION_UNITS.items():
        if milliseconds and milliseconds % length == 0:
            return f"{milliseconds // length}{unit}"
    return "0s"


def parse_listen(text: object) -> tuple[str, int]:
    """`"0.0.0.0:5000"` as host and port. Raises ValueError."""
    match = _LISTEN.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match["port"]) > _LAST_PORT:
        raise ValueError('not an address; write it like "0.0.0.0:5000" or "[::]:5000"')
    return match["ip6"] or match["host"], int(match["port"])


def parse_listens(value: object) -> tuple[tuple[str, int], ...]:
    """One address, or a list of them. Raises ValueError."""
    if not isinstance(value, list):
        return (parse_listen(value),)
    if not value:
        raise ValueError("is empty: name at least one address")
    return tuple(map(parse_listen, value))


def format_listen(address: tuple[str, int]) -> str:
    """Host and port as they are written."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_network(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """`"10.0.0.0/8"` as a network. Raises ValueError."""
    try:
        return ipaddress.ip_network(str(text))
    except ValueError as error:
        raise ValueError(f'not a network ({error}); write it like "10.0.0.0/8"') from error


def parse_host(text: str) -> str:
    """A registry's host, and port if it has one, in lower case. Raises ValueError."""
    host = text.strip().lower()
    if not host or any(mark in host for mark in "/?#@ "):
        raise ValueError('not a registry host; write it like "ghcr.io" or "registry.local:5000"')
    return host


def parse_prefix(text: str) -> str:
    """The beginning of a repository's name, without slashes around it. Raises ValueError."""
    prefix = text.strip().strip("/")
    if _PREFIX.fullmatch(prefix) is None:
        raise ValueError('not the beginning of a repository\'s name; write it like "hub-proxy"')
    if prefix.split("/")[0] == "v2":
        raise ValueError('leave "v2" out: the mirror adds it')
    return prefix
