"""Answers as HTTP, without a network."""

import asyncio
import email
import ssl
from dataclasses import replace
from email.message import Message
from io import FileIO
from pathlib import Path
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from mirror.front.api import responses
from mirror.oci.digest import digest_of
from mirror.oci.errors import RangeNotSatisfiable
from mirror.oci.manifest import OCI_MANIFEST, Manifest
from mirror.pull import answers
from mirror.pull.answers import BlobAnswer, ManifestAnswer, Outcome, WholeFile
from mirror.telemetry.traffic import Result

CONTENT = b"0123456789"
DIGEST = digest_of(CONTENT)
IN_MEMORY = BlobAnswer(DIGEST, len(CONTENT), CONTENT, answers.HIT)


def request(method: str = "GET", path: str = "/v2/a/tags/list", **headers: str) -> web.BaseRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request(method, path, headers=named)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [  # the table of the README
        (answers.HIT, "mirror; hit"),
        (answers.STORED, "mirror; fwd=miss; stored"),
        (answers.MISS, "mirror; fwd=miss"),
        (answers.JOINED, "mirror; fwd=miss; collapsed"),
        (answers.NOT_MODIFIED, "mirror; fwd=stale; fwd-status=304"),
        (answers.CONFIRMED, "mirror; fwd=stale; fwd-status=200"),
        (answers.STALE, "mirror; hit; detail=stale"),
        (answers.GONE, "mirror; hit; detail=stale"),
        (answers.LINKED, "mirror; fwd=miss; detail=linked"),
    ],
)
def test_cache_status_tells_how_the_answer_came_about(outcome: Outcome, told: str) -> None:
    assert responses.cache_status(outcome) == told


def test_a_warning_stands_where_the_answer_is_stale_and_nowhere_else() -> None:
    for outcome in (answers.STALE, answers.GONE):
        warning = responses.outcome_headers(outcome)["Warning"]
        assert warning == f'299 - "{outcome.warning}"'
        assert outcome.result is Result.STALE
    assert "Warning" not in responses.outcome_headers(answers.HIT)


def test_a_manifest_has_its_own_type_and_no_parameters() -> None:
    answer = ManifestAnswer(Manifest(DIGEST, OCI_MANIFEST, CONTENT), answers.HIT)
    response = responses.manifest(request(), answer)
    assert response.headers["Content-Type"] == OCI_MANIFEST
    assert response.body == CONTENT


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (f'"{DIGEST}"', 304),
        (f'W/"{DIGEST}"', 304),
        (f'"x" ,  "{DIGEST}"', 304),
        ("*", 304),
        ('"x"', 200),
        (str(DIGEST), 200),  # an entity tag is quoted
        ("", 200),
    ],
)
def test_if_none_match(condition: str, status: int) -> None:
    manifest = ManifestAnswer(Manifest(DIGEST, OCI_MANIFEST, CONTENT), answers.HIT)
    asked = request(If_None_Match=condition)
    assert responses.manifest(asked, manifest).status == status
    response, _ = responses.blob_head(asked, IN_MEMORY)
    assert response.status == status
    assert response.headers["ETag"] == f'"{DIGEST}"'


def test_a_range_of_a_blob_in_memory() -> None:
    response, layout = responses.blob_head(request(Range="bytes=2-4"), IN_MEMORY)
    assert isinstance(response, web.Response)
    assert (response.status, response.body) == (206, b"234")
    assert response.headers["Content-Range"] == "bytes 2-4/10"
    assert response.headers["Content-Length"] == "3"
    [span] = layout.spans
    assert (span.start, span.stop) == (2, 5)


def test_several_ranges_come_as_parts_in_the_order_that_was_asked_for() -> None:
    response, _ = responses.blob_head(request(Range="bytes=7-8, 0-1,-1"), IN_MEMORY)
    assert isinstance(response, web.Response)
    assert response.status == 206
    assert "Content-Range" not in response.headers
    kind = response.headers["Content-Type"]
    message = email.message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + _body(response))
    parts = cast("list[Message]", message.get_payload())
    assert [part.get_payload(decode=True) for part in parts] == [b"78", b"01", b"9"]
    assert [part["Content-Range"] for part in parts] == [
        "bytes 7-8/10", "bytes 0-1/10", "bytes 9-9/10",
    ]  # fmt: skip
    assert response.headers["Content-Length"] == str(len(_body(response)))


def test_one_range_of_several_that_is_there_comes_alone() -> None:
    response, _ = responses.blob_head(request(Range="bytes=2-4,90-99"), IN_MEMORY)
    assert isinstance(response, web.Response)
    assert (response.status, response.body) == (206, b"234")
    assert response.headers["Content-Range"] == "bytes 2-4/10"


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=0-9,0-9",  # more than there is
        "bytes=" + ",".join(["0-0"] * 1025),
        "bytes=0-1,x-2",
        "bytes=0-1,3-2",
    ],
)
def test_ranges_that_nobody_can_want_are_answered_with_everything(wanted: str) -> None:
    response, _ = responses.blob_head(request(Range=wanted), IN_MEMORY)
    assert isinstance(response, web.Response)
    assert (response.status, response.body) == (200, CONTENT)


def test_several_ranges_of_which_none_is_there_are_refused() -> None:
    with pytest.raises(RangeNotSatisfiable):
        responses.blob_head(request(Range="bytes=10-,90-99"), IN_MEMORY)


def _body(response: web.Response) -> bytes:
    assert isinstance(response.body, bytes)
    return response.body


def test_a_range_outside_is_refused_and_by_head_it_is_none() -> None:
    with pytest.raises(RangeNotSatisfiable):
        responses.blob_head(request(Range="bytes=10-"), IN_MEMORY)
    response, _ = responses.blob_head(request("HEAD", Range="bytes=10-"), IN_MEMORY)
    assert (response.status, response.headers["Content-Length"]) == (200, "10")


def test_a_blob_of_unknown_size_has_neither_length_nor_ranges() -> None:
    unknown = replace(IN_MEMORY, size=None, body=None)
    response, layout = responses.blob_head(request(Range="bytes=2-4"), unknown)
    assert response.status == 200
    assert "Content-Length" not in response.headers
    [span] = layout.spans
    assert span.stop is None


@pytest.mark.parametrize(
    ("following", "ns", "link"),
    [
        (None, None, None),
        ({"n": "2", "last": "b"}, None, '</v2/a/tags/list?n=2&last=b>; rel="next"'),
        (
            {"n": "2", "last": "b"},
            "quay.io",
            '</v2/a/tags/list?n=2&last=b&ns=quay.io>; rel="next"',
        ),
        (
            {"last": "x>; <evil\r\nA: b"},
            "a\r\nb",
            '</v2/a/tags/list?last=x%3E%3B+%3Cevil%0D%0AA%3A+b&ns=a%0D%0Ab>; rel="next"',
        ),
    ],
)
def test_the_link_leads_to_the_path_that_was_asked_for(
    following: dict[str, str] | None, ns: str | None, link: str | None
) -> None:
    response = responses.page(request(path="/v2/a/tags/list?n=2&x=y"), b"{}", following, ns)
    assert response.headers.get("Link") == link


class OverTls(asyncio.Transport):
    """A connection whose bytes pass through our hands."""

    def __init__(self) -> None:
        super().__init__({"sslcontext": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)})


class Sink(web.StreamResponse):
    """Takes whatever is written."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        del data


async def test_over_tls_a_file_that_is_shorter_than_promised_ends_the_response(
    tmp_path: Path,
) -> None:
    (tmp_path / "blob").write_bytes(CONTENT)
    over_tls = make_mocked_request("GET", "/", transport=OverTls())
    with FileIO(tmp_path / "blob") as file:
        size = len(CONTENT) + 1
        answer = BlobAnswer(DIGEST, size, WholeFile(file, size), answers.HIT)
        layout = responses.Layout([responses.Span(0, size)])
        async with asyncio.timeout(10):
            with pytest.raises(OSError, match="truncated"):
                await responses.send_body(over_tls, Sink(), answer, layout, int)
