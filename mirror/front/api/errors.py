"""The one place where an error becomes HTTP.

What cannot be had is told so that *this* client turns to the origin at once :

    client                    unavailable        rate-limited
    docker (graph drivers)    404                404   it retries a 5xx for 50 seconds
    containerd, BuildKit      502, 504 (slow)    404   it repeats a 429 five times at once
    podman, Buildah, skopeo   502, 504           404   it sleeps on a 429 (CRI-O too)
    anything else             502, 504           429 with Retry-After

podman and its kin take all of an image from whoever has given them its manifest: they get 404 for a
manifest of which not everything can be had (`handlers`, `pull.complete`).
"""

import json
import math
from http import HTTPStatus

from aiohttp import web

from mirror.oci.errors import (
    Denied,
    ErrorCode,
    RangeNotSatisfiable,
    Refused,
    RegistryError,
    Unavailable,
)

_FALLS_BACK_ON_404_ONLY = ("docker/",)
_FALLS_BACK = (
    "docker/", "containerd/", "buildkit/",
    "containers/", "cri-o/", "podman/", "buildah/", "skopeo/",
)  # fmt: skip


def render(
    error: RegistryError, *, agent: str, missing: ErrorCode, is_personal: bool
) -> web.Response:
    """The response that tells `error`; `missing` is the code of what was asked for, if unknown.

    `is_personal`: the client's own authorization decides. Elsewhere upstream has refused the
    mirror's, which no password of the client's can mend: a challenge would only collect it.
    """
    if isinstance(error, Refused) and error.errors:
        return _passed_on(error)
    status, code = error.status, error.code
    headers = {}
    if code in {ErrorCode.UNAVAILABLE, ErrorCode.TOOMANYREQUESTS}:
        status = _status_of_outage(error, agent)
        if status == HTTPStatus.NOT_FOUND:
            code = missing
    if isinstance(error, Denied) and code is ErrorCode.UNAUTHORIZED:
        if is_personal and error.challenge is not None:
            headers["WWW-Authenticate"] = error.challenge
        else:
            status, code = HTTPStatus.FORBIDDEN, ErrorCode.DENIED
    if (
        status == HTTPStatus.TOO_MANY_REQUESTS
        and isinstance(error, Unavailable)
        and error.retry_after is not None
    ):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return _response(status, code, error.message, error.detail, headers)


def unsupported() -> web.Response:
    """The answer to whoever wants to write (spec, "Error Codes"): a mirror is for pulls."""
    message = "this is a pull-through mirror: push to the registry itself"
    return _response(
        HTTPStatus.METHOD_NOT_ALLOWED, ErrorCode.UNSUPPORTED, message, None, {"Allow": "GET, HEAD"}
    )


def not_satisfiable(error: RangeNotSatisfiable) -> web.Response:
    """RFC 9110, 15.5.17."""
    headers = {"Content-Range": f"bytes */{error.size}"}
    return _response(
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        ErrorCode.SIZE_INVALID,
        str(error),
        None,
        headers,
    )


def unauthorized() -> web.Response:
    """The mirror wants a password of its own (`server.htpasswd_file`)."""
    headers = {"WWW-Authenticate": 'Basic realm="mirror"'}
    return _response(
        HTTPStatus.UNAUTHORIZED, ErrorCode.UNAUTHORIZED, "a password is needed", None, headers
    )


def malformed(status: int) -> web.Response:
    """What came is not HTTP, or more of it than is read; it is not quoted."""
    return _response(status, ErrorCode.UNSUPPORTED, "not a request that can be read", None, {})


def unknown(request_id: str) -> web.Response:
    """A fault of our own: the log tells more under the request's id."""
    detail = {"request": request_id}
    return _response(
        HTTPStatus.INTERNAL_SERVER_ERROR, ErrorCode.UNKNOWN, "the mirror has a fault", detail, {}
    )


def _passed_on(error: Refused) -> web.Response:
    """Upstream's own words."""
    body = json.dumps({"errors": error.errors}).encode()
    return web.Response(status=error.status, body=body, content_type="application/json")


def _status_of_outage(error: RegistryError, agent: str) -> int:
    agent = agent.lower()
    if error.code is ErrorCode.TOOMANYREQUESTS:
        return (
            HTTPStatus.NOT_FOUND if agent.startswith(_FALLS_BACK) else HTTPStatus.TOO_MANY_REQUESTS
        )
    if agent.startswith(_FALLS_BACK_ON_404_ONLY):
        return HTTPStatus.NOT_FOUND
    timed_out = isinstance(error, Unavailable) and error.timed_out
    return HTTPStatus.GATEWAY_TIMEOUT if timed_out else HTTPStatus.BAD_GATEWAY


def _response(
    status: int, code: ErrorCode, message: str, detail: object, headers: dict[str, str]
) -> web.Response:
    error: dict[str, object] = {"code": code, "message": message}
    if detail is not None:
        error["detail"] = detail
    return web.Response(
        status=status,
        body=json.dumps({"errors": [error]}).encode(),
        content_type="application/json",
        headers=headers,
    )
