"""What registries write into the heads of their responses is made regular, within bounds."""

import pytest

from mirror.sources.registry.response_head import LONGEST_HEAD, ResponseHead

OK = b"HTTP/1.1 200 OK\r\n"


def test_a_regular_head_stays_as_it_is() -> None:
    answer = OK + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"
    assert ResponseHead().feed(answer) == answer


def test_a_head_that_comes_byte_by_byte_is_given_once_it_is_whole() -> None:
    head = ResponseHead()
    told = [head.feed(bytes([byte])) for byte in OK + b"Content-Length: 2\r\n\r\n"]
    assert told[-1] == OK + b"Content-Length: 2\r\n\r\n"
    assert not any(told[:-1])


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 2\r\nContent-Length: 2\r\n",
        b"Content-Length: 2, 2\r\n",
        b"content-length : 2\r\nX: y\r\nCONTENT-LENGTH:2\r\n",
    ],
)
def test_a_length_that_is_told_twice_is_told_once(lengths: bytes) -> None:
    told = ResponseHead().feed(OK + lengths + b"\r\n")
    assert told.lower().count(b"content-length: 2\r\n") == 1
    assert told.lower().count(b"content-length") == 1


def test_two_lengths_of_one_body_are_no_answer() -> None:
    with pytest.raises(ValueError, match="two lengths"):
        ResponseHead().feed(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n")


def test_a_body_in_chunks_has_no_other_length() -> None:
    told = ResponseHead().feed(
        OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    )
    assert told == OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


def test_a_space_before_the_colon_is_removed() -> None:
    told = ResponseHead().feed(OK + b"X-Served-By \t: cache : 1\r\n\r\n")
    assert told == OK + b"X-Served-By: cache : 1\r\n\r\n"


def test_interim_responses_are_skipped() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    answer = OK + b"\r\n"
    assert ResponseHead().feed(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + answer) == answer


def test_interim_responses_without_end_are_no_answer() -> None:
    with pytest.raises(ValueError, match="interim"):
        ResponseHead().feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_head_without_end_is_no_answer(end: bytes) -> None:
    with pytest.raises(ValueError, match="longer than anybody sends"):
        ResponseHead().feed(OK + b"X: " + b"y" * LONGEST_HEAD + end)
