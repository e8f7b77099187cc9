"""Which repositories are meant by a list of patterns. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mirror.oci.errors import Denied, ErrorCode

_WILDCARDS = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
_PIECES = re.compile(r"\*\*|\*|\?|[^*?]+")


@dataclass(frozen=True, slots=True)
class Selection:
    """The repositories that `allow` names (none: all of them), without those that `deny` does.

    In a pattern `*` stands for any part of one component, `**` for several, `?` for a character.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    _allowed: "re.Pattern[str] | None" = field(init=False, repr=False)
    _denied: "re.Pattern[str] | None" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_allowed", _any_of(self.allow))
        object.__setattr__(self, "_denied", _any_of(self.deny))

    def require(self, name: str) -> None:
        """See that a repository is one of them. Raises Denied."""
        if name not in self:
            raise Denied(ErrorCode.DENIED, "this mirror is configured not to serve this repository")

    def __contains__(self, name: str) -> bool:
        if self._denied is not None and self._denied.fullmatch(name):
            return False
        return self._allowed is None or self._allowed.fullmatch(name) is not None


def _any_of(patterns: Iterable[str]) -> "re.Pattern[str] | None":
    found = [
        "".join(_WILDCARDS.get(piece, re.escape(piece)) for piece in _PIECES.findall(pattern))
        for pattern in patterns
    ]
    return re.compile("|".join(found)) if found else None
