import pytest

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


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_status_and_is_spelled_as_on_the_wire(code: ErrorCode) -> None:
    assert 400 <= STATUS[code] < 600
    assert code.value == code.name


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.BLOB_UNKNOWN, 404),
        (ErrorCode.DENIED, 403),
        (ErrorCode.DIGEST_INVALID, 400),
        (ErrorCode.MANIFEST_UNKNOWN, 404),
        (ErrorCode.NAME_INVALID, 400),
        (ErrorCode.NAME_UNKNOWN, 404),
        (ErrorCode.TOOMANYREQUESTS, 429),
        (ErrorCode.UNAUTHORIZED, 401),
        (ErrorCode.UNSUPPORTED, 405),
    ],
)
def test_the_specs_codes_have_the_specs_statuses(code: ErrorCode, status: int) -> None:
    assert RegistryError(code, "why").status == status


def test_an_error_reads_as_its_message() -> None:
    error = Missing(ErrorCode.MANIFEST_UNKNOWN, "upstream has no such tag", {"tag": "x"})
    assert (str(error), error.message, error.detail) == (error.message,) * 2 + ({"tag": "x"},)


def test_a_denial_carries_upstreams_challenge_along() -> None:
    assert Denied(ErrorCode.UNAUTHORIZED, "log in").challenges == ()
    assert Denied(ErrorCode.UNAUTHORIZED, "log in", challenges=["Basic"]).challenges == ("Basic",)


def test_an_outage_says_how_long_to_wait_where_upstream_did() -> None:
    limited = Unavailable("limited", code=ErrorCode.TOOMANYREQUESTS, retry_after=2.5)
    assert (limited.status, limited.retry_after, limited.timed_out) == (429, 2.5, False)
    assert Unavailable("down", timed_out=True).status == 503


def test_content_that_is_not_what_was_promised_is_an_outage_to_the_client() -> None:
    assert DigestMismatch("wrong bytes").status == 503


def test_an_unsatisfiable_range_knows_the_size_to_tell() -> None:
    assert RangeNotSatisfiable(10).size == 10
