"""The messages between the processes: a closed set, and the errors that they can tell of.

Arguments and results stay as they came until it is known which method they belong to, and so of
which types they must be.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from mirror.front.ports import FaultElsewhere
from mirror.front.settings import UnusableFile
from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    ErrorCode,
    Missing,
    Refused,
    RegistryError,
    StoreError,
    Unavailable,
)

Number = Annotated[int, Meta(ge=0, lt=2**53)]
RequestId = Annotated[str, Meta(pattern=r"\A[0-9a-z-]{0,64}\Z")]  # it stands in our log


class Call(Struct, frozen=True, tag=0, array_like=True, forbid_unknown_fields=True):
    """A question. Its number is 0 where nobody waits for an answer."""

    number: Number
    method: Annotated[str, Meta(max_length=64)]
    arguments: Raw
    request_id: RequestId  # of the client's request, for the log of whoever answers
    connection: Number  # over which the client asks; 0 where none does


class Answer(Struct, frozen=True, tag=1, array_like=True, forbid_unknown_fields=True):
    """What the method has returned, or opened."""

    number: Number
    result: Raw


class Leave(Struct, frozen=True, tag=2, array_like=True, forbid_unknown_fields=True):
    """The caller of this number waits no longer, or is done with what it has opened."""

    number: Number


Kind = Literal[
    "registry",
    "missing",
    "denied",
    "refused",
    "unavailable",
    "mismatch",
    "store",
    "file",
    "fault",
]


class Failure(Struct, frozen=True, tag=3, array_like=True, forbid_unknown_fields=True):
    """What the method has raised. What a kind has no use for is at its default."""

    number: Number
    kind: Kind
    message: str = ""
    code: ErrorCode = ErrorCode.UNKNOWN
    detail: Any = None
    is_remembered: bool = False
    challenges: tuple[str, ...] = ()
    retry_after: float | None = None
    timed_out: bool = False
    status_seen: int | None = None
    problems: list[str] = []
    errors: tuple[dict[str, Any], ...] = ()  # upstream's own words


def failure(number: int, error: Exception) -> Failure:
    """Tell of an error; what is of no kind that travels is a fault, and its text stays here."""
    match error:
        case UnusableFile():
            return Failure(number, "file", error.file, problems=error.problems)
        case StoreError():
            return Failure(number, "store", error.explanation)
        case DigestMismatch():
            return Failure(number, "mismatch", error.message)
        case RegistryError():
            return _registry_failure(number, error)
        case _:
            return Failure(number, "fault")


def _registry_failure(number: int, error: RegistryError) -> Failure:
    said = (error.message, error.code, error.detail)
    errors = tuple(dict(it) for it in error.errors)
    match error:
        case Missing():
            return Failure(
                number, "missing", *said, is_remembered=error.is_remembered, errors=errors
            )
        case Denied():
            return Failure(number, "denied", *said, challenges=error.challenges, errors=errors)
        case Refused():
            return Failure(
                number, "refused", error.message, status_seen=error.status_seen, errors=errors
            )
        case Unavailable():
            return Failure(
                number, "unavailable", *said, retry_after=error.retry_after,
                timed_out=error.timed_out, status_seen=error.status_seen,
            )  # fmt: skip
        case _:
            return Failure(number, "registry", *said)


def error_of(told: Failure) -> Exception:
    """The error as it was raised."""
    match told.kind:
        case "file":
            return UnusableFile(told.message, told.problems)
        case "store":
            return StoreError(told.message)
        case "mismatch":
            return DigestMismatch(told.message)
        case "fault":
            return FaultElsewhere("the process that was asked has a fault; see its log")
        case _:
            return _registry_error(told)


def _registry_error(told: Failure) -> RegistryError:
    error = _bare_error(told)
    if told.errors:
        error.errors = told.errors
    return error


def _bare_error(told: Failure) -> RegistryError:
    match told.kind:
        case "missing":
            missing = Missing(told.code, told.message, told.detail)
            if told.is_remembered:
                missing.is_remembered = True
            return missing
        case "denied":
            return Denied(told.code, told.message, told.detail, challenges=told.challenges)
        case "refused":
            return Refused(told.status_seen or 400, told.message)
        case "unavailable":
            return Unavailable(
                told.message, code=told.code, retry_after=told.retry_after,
                timed_out=told.timed_out, status_seen=told.status_seen,
            )  # fmt: skip
        case _:
            return RegistryError(told.code, told.message, told.detail)
