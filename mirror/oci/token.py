"""What is asked of a token server, and answered (distribution, spec/auth), as it is relayed.

Nothing in it is looked into: it is the client's and the token server's own.
"""

import hashlib
from typing import Annotated

from msgspec import Meta, Struct

from mirror.oci.errors import ErrorCode, RegistryError

MOST_OF_A_FORM = 2**16  # bytes; refresh tokens take some thousands
_LONGEST_QUERY = 2**13  # characters
_QUERY = r'\A[!"$-~]*\Z'  # no space, no fragment
_KEY = r"\A[0-9a-f]{16}\Z"

ServerKey = Annotated[str, Meta(pattern=_KEY)]
"""Stands for the address of a token server that a registry has named: nobody can name another."""


def key_of(realm: str) -> str:
    """What stands for the token server that a challenge names."""
    return hashlib.sha256(realm.encode()).hexdigest()[:16]


class TokenQuestion(Struct, frozen=True, array_like=True):
    """A client's question: its query, and its form where it sends one (POST)."""

    server: ServerKey
    query: Annotated[str, Meta(pattern=_QUERY, max_length=_LONGEST_QUERY)]
    form: Annotated[bytes, Meta(max_length=MOST_OF_A_FORM)] | None = None


class TokenAnswer(Struct, frozen=True, array_like=True):
    """What the token server says."""

    status: Annotated[int, Meta(ge=200, lt=600)]
    content: bytes
    is_json: bool
    retry_after: float | None = None  # seconds


def too_large() -> RegistryError:
    """What to tell whoever sends a longer form."""
    return RegistryError(ErrorCode.SIZE_INVALID, f"a form of more than {MOST_OF_A_FORM} bytes")
