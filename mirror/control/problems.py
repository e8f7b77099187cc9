"""Errors of the API, all in one form (RFC 9457)."""

from http import HTTPStatus

import msgspec
from aiohttp import web

CONTENT_TYPE = "application/problem+json"


class Refusal(Exception):
    """A request that is not done; `detail` says what would help."""

    def __init__(
        self, status: HTTPStatus, detail: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457's members, as far as there is something to say."""

    title: str
    status: int
    detail: str


def problem(refusal: Refusal) -> web.Response:
    """A refusal as a response."""
    document = ProblemDetails(
        title=refusal.status.phrase, status=refusal.status.value, detail=refusal.detail
    )
    return web.Response(
        status=refusal.status,
        body=msgspec.json.encode(document),
        headers={"Content-Type": CONTENT_TYPE, **refusal.headers},
    )
