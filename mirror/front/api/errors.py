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
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web
from multidict import CIMultiDict

from mirror.front.api import responses
from mirror.front.api.token_relay import relayed
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
    error: RegistryError,
    *,
    agent: str,
    missing: ErrorCode,
    is_personal: bool,
    relay: str | None = None,
) -> web.Response:
    """The response that tells `error`; `missing` is the code of what was asked for, if unknown.

    `is_personal`: the client's own authorization decides. Elsewhere upstream has refused the
    mirror's, which no password of the client's can mend: a challenge would only collect it.
    `relay` is the address at which the client may ask for tokens, if not at the token server's.
    """
    if isinstance(error, Refused) and error.errors:
        return _passed_on(error, error.status, {})
    status, code = error.status, error.code
    headers = CIMultiDict[str]()
    if code in {ErrorCode.UNAVAILABLE, ErrorCode.TOOMANYREQUESTS}:
        status = _status_of_outage(error, agent)
        code = missing if status == HTTPStatus.NOT_FOUND else code
    if isinstance(error, Denied) and code is ErrorCode.UNAUTHORIZED:
        if is_personal and error.challenges:
            headers.update(responses.API_VERSION)
            for challenge in error.challenges:
                told = challenge if relay is None else relayed(challenge, relay)
                headers.add("WWW-Authenticate", told)
        else:
            status, code = HTTPStatus.FORBIDDEN, ErrorCode.DENIED
    headers.update(_retry_after(error, status))
    if error.errors:
        return _passed_on(error, status, headers)
    return _response(status, code, error.message, error.detail, headers)


def out_of_order(headers: Mapping[str, str]) -> web.Response:
    """A chunk that does not follow (spec, "Pushing a blob in chunks")."""
    return _response(
        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
        ErrorCode.BLOB_UPLOAD_INVALID,
        "this does not follow what is there of the upload",
        None,
        headers,
    )


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


def _retry_after(error: RegistryError, status: int) -> Mapping[str, str]:
    """When to come again, where somebody has said so."""
    if status != HTTPStatus.TOO_MANY_REQUESTS or not isinstance(error, Unavailable):
        return {}
    return {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}


def _passed_on(error: RegistryError, status: int, headers: Mapping[str, str]) -> web.Response:
    """Upstream's own words."""
    body = json.dumps({"errors": error.errors}).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


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
    status: int, code: ErrorCode, message: str, detail: object, headers: Mapping[str, str]
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
