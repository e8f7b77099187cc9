"""`WWW-Authenticate` headers, read by their grammar (RFC 9110, 11.6.1); no I/O."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))\s*')
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?=[\s,]|$)")
_SEPARATOR = re.compile(r"[\s,]*")
_LONGEST = 2**13  # characters of a value; a token server's address, a service and a scope
_MOST = 8  # values, and challenges in all of them


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a server wants to be convinced; the scheme and the names of parameters in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Every challenge in the values of `WWW-Authenticate`; what makes no sense is passed over.

    Values may hold several challenges, and commas and colons inside quotes (Alibaba's
    `service="registry.aliyuncs.com:cn-hangzhou:26842"`).
    """
    found = (challenge for header in usable(headers) for challenge in _parse(header))
    return list(islice(found, _MOST))


def usable(headers: Iterable[str]) -> list[str]:
    """Those of a response's `WWW-Authenticate` values that anybody could mean, without the rest."""
    return [header for header in islice(headers, _MOST) if len(header) <= _LONGEST]


def with_realms(header: str, address_of: Callable[[str], str]) -> str:
    """The header with other addresses for the token servers that it names; else as it is."""
    challenges = list(islice(_parse(header), _MOST))
    if not any(it.scheme == "bearer" and "realm" in it.parameters for it in challenges):
        return header
    for challenge in challenges:
        if challenge.scheme == "bearer" and "realm" in challenge.parameters:
            challenge.parameters["realm"] = address_of(challenge.parameters["realm"])
    return ", ".join(map(_format, challenges))


def _format(challenge: Challenge) -> str:
    told = (f"{name}={_quote(value)}" for name, value in challenge.parameters.items())
    return f"{challenge.scheme.capitalize()} {','.join(told)}".rstrip()


def _quote(value: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def _parse(header: str) -> Iterator[Challenge]:
    position = 0
    while match := _SCHEME.match(header, position):
        parameters, position = _parse_parameters(header, match.end())
        yield Challenge(match[1].lower(), parameters)


def _parse_parameters(header: str, position: int) -> tuple[dict[str, str], int]:
    parameters: dict[str, str] = {}
    while True:
        start = _SEPARATOR.match(header, position)
        match = _PARAMETER.match(header, start.end() if start else position)
        if match is None:
            return parameters, position
        name, quoted, bare = match.groups()
        value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        parameters[name.lower()] = value
        position = match.end()
