"""How errors look on the wire."""

import json

import pytest

from mirror.front.api import errors
from mirror.oci.errors import (
    STATUS,
    Denied,
    DigestMismatch,
    ErrorCode,
    Missing,
    RangeNotSatisfiable,
    RegistryError,
    Unavailable,
)

DOCKER = "docker/27.0 go/go1.22"
CONTAINERD = "containerd/v2.0.0"
BUILDKIT = "buildkit/v0.17"
PODMAN = "containers/5.30 (github.com/containers/image)"
SKOPEO = "skopeo/1.16"
BUILDAH = "Buildah/1.43.0"  # podman build
CRIO = "cri-o/1.30"
CURL = "curl/8.0"

DOWN = Unavailable("down")
SLOW = Unavailable("slow", timed_out=True)
LIMITED = Unavailable("limited", code=ErrorCode.TOOMANYREQUESTS, retry_after=6.2)


def render(
    error: RegistryError, *, agent: str = CURL, is_personal: bool = False
) -> tuple[int, str]:
    response = errors.render(
        error, agent=agent, missing=ErrorCode.BLOB_UNKNOWN, is_personal=is_personal
    )
    assert isinstance(response.body, bytes)
    (told,) = json.loads(response.body)["errors"]
    assert response.content_type == "application/json"
    assert told["message"] == error.message
    return response.status, told["code"]


@pytest.mark.parametrize(
    ("agent", "down", "slow", "limited"),
    [
        (DOCKER, 404, 404, 404),
        (CONTAINERD, 502, 504, 404),
        (BUILDKIT, 502, 504, 404),
        (PODMAN, 502, 504, 404),
        (SKOPEO, 502, 504, 404),
        (BUILDAH, 502, 504, 404),
        (CRIO, 502, 504, 404),
        (CURL, 502, 504, 429),
        ("", 502, 504, 429),
        ("Docker/27", 404, 404, 404),
        ("not-docker/1", 502, 504, 429),
    ],
)
def test_each_family_of_clients_gets_what_sends_it_to_the_origin(
    agent: str, down: int, slow: int, limited: int
) -> None:
    for error, status in ((DOWN, down), (SLOW, slow), (LIMITED, limited)):
        code = ErrorCode.BLOB_UNKNOWN if status == 404 else error.code
        assert render(error, agent=agent) == (status, code)


def test_wrong_bytes_are_an_outage_too() -> None:
    assert render(DigestMismatch("wrong")) == (502, "UNAVAILABLE")
    assert render(DigestMismatch("wrong"), agent=DOCKER) == (404, "BLOB_UNKNOWN")


def test_retry_after_is_told_to_who_is_told_429_and_in_whole_seconds() -> None:
    def header(error: RegistryError, agent: str) -> str | None:
        response = errors.render(
            error, agent=agent, missing=ErrorCode.BLOB_UNKNOWN, is_personal=False
        )
        return response.headers.get("Retry-After")

    assert header(LIMITED, CURL) == "7"
    assert header(LIMITED, CONTAINERD) is None
    assert header(DOWN, CURL) is None


@pytest.mark.parametrize(
    "code", sorted(set(STATUS) - {ErrorCode.UNAVAILABLE, ErrorCode.TOOMANYREQUESTS})
)
def test_other_errors_have_one_status_for_everyone(code: ErrorCode) -> None:
    for agent in (DOCKER, CONTAINERD, CURL):
        assert render(RegistryError(code, "so it is"), agent=agent) == (STATUS[code], code)


def test_a_missing_blob_is_called_a_missing_blob() -> None:
    assert render(Missing(ErrorCode.BLOB_UNKNOWN, "not there")) == (404, "BLOB_UNKNOWN")


CHALLENGE = 'Bearer realm="https://auth.example/token"'


@pytest.mark.parametrize(
    ("code", "challenge", "is_personal", "status", "told"),
    [
        (ErrorCode.UNAUTHORIZED, CHALLENGE, True, 401, CHALLENGE),
        (ErrorCode.UNAUTHORIZED, CHALLENGE, False, 403, None),
        (ErrorCode.UNAUTHORIZED, None, True, 403, None),  # a 401 must have one (RFC 9110, 15.5.2)
        (ErrorCode.DENIED, CHALLENGE, True, 403, None),
        (ErrorCode.DENIED, None, False, 403, None),
    ],
)
def test_only_who_pulls_with_an_authorization_of_its_own_is_challenged(
    *, code: ErrorCode, challenge: str | None, is_personal: bool, status: int, told: str | None
) -> None:
    error = Denied(code, "no", challenges=() if challenge is None else (challenge,))
    response = errors.render(
        error, agent=CURL, missing=ErrorCode.BLOB_UNKNOWN, is_personal=is_personal
    )
    assert (response.status, response.headers.get("WWW-Authenticate")) == (status, told)


def test_detail_is_told_where_there_is_some() -> None:
    error = RegistryError(ErrorCode.NAME_INVALID, "no", detail={"name": "X"})
    response = errors.render(error, agent="", missing=ErrorCode.BLOB_UNKNOWN, is_personal=False)
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == {
        "errors": [{"code": "NAME_INVALID", "message": "no", "detail": {"name": "X"}}]
    }


def test_a_range_outside_tells_the_size() -> None:
    response = errors.not_satisfiable(RangeNotSatisfiable(10))
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */10")


def test_a_fault_of_our_own_tells_an_id_only() -> None:
    response = errors.unknown("abcd-1")
    assert isinstance(response.body, bytes)
    (error,) = json.loads(response.body)["errors"]
    assert (response.status, error["code"]) == (500, "UNKNOWN")
    assert error["detail"] == {"request": "abcd-1"}
