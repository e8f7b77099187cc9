"""What the status of an answer means."""

import json
import re
from http import HTTPStatus

import aiohttp
from yarl import URL

from mirror.oci.challenge import usable
from mirror.oci.errors import Denied, ErrorCode, Missing, Refused, RegistryError, Unavailable
from mirror.sources.registry.headers import field_value, parse_retry_after
from mirror.sources.registry.health import Trouble
from mirror.sources.registry.reading import Broken

_PASSING = frozenset(
    {
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""Statuses of 4xx that tell of this moment, or of what stands between, and not of the request."""


_CODE = re.compile(r"[A-Z0-9_]{1,64}")  # of an error, as the spec has them
_MOST_ERRORS = 8
_LARGEST_NUMBER = 2**53  # that everybody who reads JSON can tell from the next (RFC 8259, 6)


class Closed(Unavailable):
    """It is known to be of no use to ask, and nobody was asked: that tells nothing new."""


class OfStorage(Unavailable):
    """The storage that a registry redirects to is in trouble; the registry is not.

    Neither leaves the package as more than `Unavailable`.
    """


def raise_for_status(response: aiohttp.ClientResponse, url: URL) -> None:
    """Raise what the status of the answer to `url` means; return where it is one to go on with.

    Raises:
        Missing, Denied, Unavailable: As `Endpoint.ask`.
    """
    status = response.status
    is_beyond_the_end = (
        "Range" in response.request_info.headers
        and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    )
    if status < HTTPStatus.BAD_REQUEST or is_beyond_the_end:
        return
    # A registry that redirects has it, and has let us in: a link that has expired on its way, or
    # storage in trouble, is no reason to tell a client that there is nothing.
    if response.url.origin() != url.origin():
        raise _of_storage(response)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise rate_limited(response)
    _raise_refusal(response)
    if is_answer(response):
        raise Refused(status, f"upstream answered {status} {_phrase(status)}".rstrip())
    raise Unavailable(f"upstream answered {status}", status_seen=status)


def trouble_of(error: RegistryError, *, others_answered: bool) -> Trouble | None:
    """What an error tells of the endpoint; None where it is an answer.

    `others_answered`: others have been answered meanwhile.
    """
    if not isinstance(error, Unavailable) or isinstance(error, OfStorage):
        return None
    if error.status_seen is None:
        if isinstance(error, Broken):
            return Trouble.BROKEN
        return Trouble.SLOW if error.timed_out and others_answered else Trouble.UNREACHABLE
    return Trouble.ERROR if error.status_seen >= HTTPStatus.INTERNAL_SERVER_ERROR else None


def parse_errors(document: bytes, *, without: str | None = None) -> list[dict[str, object]]:
    """The errors in the body of a refusal, as far as they may be handed on; never raises.

    `without`: a prefix of repositories' names there, which those who are told have not asked for.
    """
    try:
        answer = json.loads(document)
    except (ValueError, RecursionError):
        return []
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if not isinstance(errors, list):
        return []
    found = (_error(error, without) for error in errors[:_MOST_ERRORS] if isinstance(error, dict))
    return [error for error in found if error]


def _error(told: dict[str, object], without: str | None) -> dict[str, object] | None:
    code, message, detail = (told.get(name) for name in ("code", "message", "detail"))
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return None
    words = message if isinstance(message, str) else ""
    error: dict[str, object] = {"code": code, "message": _strip(_printable(words), without)}
    if isinstance(detail, str):
        error["detail"] = _strip(_printable(detail), without)
    elif isinstance(detail, int) and abs(detail) < _LARGEST_NUMBER:
        error["detail"] = detail
    return error


def _printable(text: str) -> str:
    """A text for people, of any language: no control characters, no halves of characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def _strip(text: str, prefix: str | None) -> str:
    return text.replace(f"{prefix}/", "") if prefix else text


def is_answer(response: aiohttp.ClientResponse) -> bool:
    """Whether a status that is no success is about the request, and not about the registry.

    That a registry has no HEAD (501) is, too.
    """
    status = response.status
    if status == HTTPStatus.NOT_IMPLEMENTED:
        return response.method == "HEAD"
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and (
        status not in _PASSING
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _of_storage(response: aiohttp.ClientResponse) -> "OfStorage":
    """What storage says that a registry has redirected to."""
    status = response.status
    return OfStorage(
        f"the storage that upstream redirects to answered {status}",
        retry_after=_retry_after(response),
        status_seen=status,
    )


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    headers = response.headers
    return parse_retry_after(headers.get("Retry-After"), date=headers.get("Date"))


def rate_limited(response: aiohttp.ClientResponse) -> Unavailable:
    """What a 429 means."""
    return Unavailable(
        "upstream limits the rate of requests",
        code=ErrorCode.TOOMANYREQUESTS,
        retry_after=_retry_after(response),
        status_seen=response.status,
    )


def _challenges(response: aiohttp.ClientResponse) -> list[str]:
    """Each field of its own, as they came: clients read the first challenge of each."""
    fields = response.headers.getall("WWW-Authenticate", [])
    return [value for value in map(field_value, usable(fields)) if value is not None]


def _raise_refusal(response: aiohttp.ClientResponse) -> None:
    """Raise what a refusal by the registry itself means, if the status is one."""
    status = response.status
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        raise Missing(ErrorCode.MANIFEST_UNKNOWN, "upstream does not have it")
    refusals = {HTTPStatus.FORBIDDEN, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS}
    if status == HTTPStatus.UNAUTHORIZED or status in refusals:
        is_unknown = status == HTTPStatus.UNAUTHORIZED
        raise Denied(
            ErrorCode.UNAUTHORIZED if is_unknown else ErrorCode.DENIED,
            "upstream denies access to this repository",
            challenges=_challenges(response),
        )
