"""The distribution spec's error codes, as exceptions.

One exception class carries them all; a subclass exists only where a caller acts differently.
How an error looks on the wire is decided in `mirror.front.api.errors` alone.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum


class ErrorCode(StrEnum):
    """What went wrong, in the words of the distribution spec (section "Error Codes")."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID"
    BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN"
    DENIED = "DENIED"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    PAGINATION_NUMBER_INVALID = "PAGINATION_NUMBER_INVALID"  # distribution's
    SIZE_INVALID = "SIZE_INVALID"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"
    UNAUTHORIZED = "UNAUTHORIZED"
    UNAVAILABLE = "UNAVAILABLE"  # not the spec's, but distribution's word for 503
    UNKNOWN = "UNKNOWN"  # the same
    UNSUPPORTED = "UNSUPPORTED"


STATUS = {
    ErrorCode.BLOB_UNKNOWN: 404,
    ErrorCode.BLOB_UPLOAD_INVALID: 400,
    ErrorCode.BLOB_UPLOAD_UNKNOWN: 404,
    ErrorCode.DENIED: 403,
    ErrorCode.DIGEST_INVALID: 400,
    ErrorCode.MANIFEST_BLOB_UNKNOWN: 404,
    ErrorCode.MANIFEST_INVALID: 400,
    ErrorCode.MANIFEST_UNKNOWN: 404,
    ErrorCode.NAME_INVALID: 400,
    ErrorCode.NAME_UNKNOWN: 404,
    ErrorCode.PAGINATION_NUMBER_INVALID: 400,
    ErrorCode.SIZE_INVALID: 400,
    ErrorCode.TOOMANYREQUESTS: 429,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.UNKNOWN: 500,
    ErrorCode.UNSUPPORTED: 405,
}
"""The HTTP status of each code, unless the client wants another (`mirror.front.api.errors`)."""


class RegistryError(Exception):
    """A request that cannot be answered, and why, in the spec's words.

    `errors` are the objects in the body of upstream's own answer, as the spec has them, where that
    is what a client is to be told.
    """

    errors: tuple[Mapping[str, object], ...] = ()

    def __init__(self, code: ErrorCode, message: str, detail: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    @property
    def status(self) -> int:
        """The HTTP status this error has for a client that asks for nothing special."""
        return STATUS[self.code]

    def __reduce__(self) -> tuple[object, ...]:
        """As itself between processes, whatever a subclass's constructor takes."""
        return Exception.__new__, (type(self), *self.args), vars(self)


class Missing(RegistryError):
    """Upstream was asked and does not have it (404): remembered for `tags.missing_for`.

    `is_remembered`: upstream said so a moment ago, and was not asked again.
    """

    is_remembered = False


class Sealed(Missing):
    """It is not here, and its registry is never asked (`sealed = true`)."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code, "not here, and the mirror is sealed: it never asks this registry")
        self.is_remembered = True


class Refused(RegistryError):
    """Upstream has answered that it will not do this (400, 413 ...): its answer is passed on."""

    def __init__(
        self, status: int, message: str, errors: Sequence[Mapping[str, object]] = ()
    ) -> None:
        super().__init__(ErrorCode.UNSUPPORTED, message)
        self.status_seen = status
        self.errors = tuple(errors)

    @property
    def status(self) -> int:
        """As upstream has it."""
        return self.status_seen


class Denied(RegistryError):
    """Upstream refuses this repository: the denial is passed on, never a cached copy.

    `challenges` are upstream's `WWW-Authenticate` fields, relayed to clients of an
    `access = "client"` upstream so that they can fetch a token of their own.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        detail: object = None,
        *,
        challenges: Sequence[str] = (),
    ) -> None:
        super().__init__(code, message, detail)
        self.challenges = tuple(challenges)


class Unavailable(RegistryError):
    """Upstream cannot be asked now: unreachable, too slow, 5xx or 429. Stale content may serve.

    `retry_after` is in seconds, where upstream named it; `timed_out` tells slow from dead;
    `status_seen` is the status of its answer, where there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = ErrorCode.UNAVAILABLE,
        retry_after: float | None = None,
        timed_out: bool = False,
        status_seen: int | None = None,
    ) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after
        self.timed_out = timed_out
        self.status_seen = status_seen


class DigestMismatch(RegistryError):
    """The bytes that arrived are not the bytes that were promised; nothing of them is kept."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, message)


class StoreError(RegistryError):
    """The store cannot be used; its text says what an operator can do about it.

    A client learns less: paths are none of its business.
    """

    def __init__(self, explanation: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, "the mirror's store has a fault; see its log")
        self.explanation = explanation

    def __str__(self) -> str:
        return self.explanation


class RangeNotSatisfiable(Exception):
    """The requested range lies outside the content (RFC 9110, 14.4): 416 with its size."""

    def __init__(self, size: int) -> None:
        super().__init__(f"range outside the {size} bytes there are")
        self.size = size
