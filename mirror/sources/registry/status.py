"""What the status of an answer means."""

from http import HTTPStatus

import aiohttp
from yarl import URL

from mirror.oci.errors import Denied, ErrorCode, Missing, Unavailable
from mirror.sources.registry.headers import field_value, parse_retry_after


def raise_for_status(response: aiohttp.ClientResponse, url: URL) -> None:
    """Raise what the status of the answer to `url` means; return where it is one to go on with.

    Raises:
        Missing, Denied, Unavailable: As `Endpoint.ask`.
    """
    status = response.status
    # HEAD may be refused where GET is not; a range may lie beyond the end.
    is_expected = (response.method == "HEAD" and status == HTTPStatus.METHOD_NOT_ALLOWED) or (
        "Range" in response.request_info.headers
        and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    )
    if status < HTTPStatus.BAD_REQUEST or is_expected:
        return
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise rate_limited(response)
    # A registry that redirects has it, and has let us in: a link that has expired on its way, or
    # storage in trouble, is no reason to tell a client that there is nothing.
    if response.url.origin() == url.origin():
        _raise_refusal(response)
    raise Unavailable(f"upstream answered {status}", status_seen=status)


def rate_limited(response: aiohttp.ClientResponse) -> Unavailable:
    """What a 429 means."""
    return Unavailable(
        "upstream limits the rate of requests",
        code=ErrorCode.TOOMANYREQUESTS,
        retry_after=parse_retry_after(
            response.headers.get("Retry-After"), date=response.headers.get("Date")
        ),
        status_seen=response.status,
    )


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
            challenge=field_value(response.headers.get("WWW-Authenticate")),
        )
