import hashlib

import pytest

from mirror.oci.digest import Digest, digest_of, parse_digest
from mirror.oci.errors import ErrorCode, RegistryError

SHA256 = "sha256:" + hashlib.sha256(b"content").hexdigest()
SHA512 = "sha512:" + hashlib.sha512(b"content").hexdigest()


@pytest.mark.parametrize("text", [SHA256, SHA512])
def test_a_digest_of_a_registered_algorithm_is_read_and_written_back(text: str) -> None:
    assert str(parse_digest(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        ":" + "a" * 64,
        "a" * 64,
        SHA256[:-1],
        SHA256 + "0",
        SHA256 + "\n",
        " " + SHA256,
        SHA256.upper(),
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha256:" + "\u0663" * 64,
        "SHA256:" + "a" * 64,
        "sha256::" + "a" * 64,
        "sha512:" + "a" * 64,
        "sha256:" + "a" * 128,
        "sha256:../../../../etc/passwd",
    ],
)
def test_what_the_grammar_does_not_allow_is_not_a_digest(text: str) -> None:
    with pytest.raises(RegistryError) as caught:
        parse_digest(text)
    assert caught.value.code is ErrorCode.DIGEST_INVALID


@pytest.mark.parametrize(
    "text",
    [
        "md5:" + "a" * 32,
        "blake3:" + "a" * 64,
        "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9",
    ],
)
def test_a_digest_of_an_algorithm_that_proves_nothing_here_is_refused_by_name(text: str) -> None:
    with pytest.raises(RegistryError, match="neither sha256 nor sha512") as caught:
        parse_digest(text)
    assert caught.value.code is ErrorCode.DIGEST_INVALID


@pytest.mark.parametrize("text", [SHA256, SHA512])
def test_a_digest_proves_its_own_content_and_no_other(text: str) -> None:
    digest = parse_digest(text)
    assert digest.names(b"content")
    assert not digest.names(b"Content")


@pytest.mark.parametrize("text", [SHA256, SHA512])
def test_content_that_arrives_in_pieces_is_proved_as_a_whole(text: str) -> None:
    digest = parse_digest(text)
    hasher = digest.hasher()
    hasher.update(b"con")
    assert not digest.matches(hasher)
    hasher.update(memoryview(b"tent"))
    assert digest.matches(hasher)


def test_content_is_called_by_its_sha256_unless_asked_otherwise() -> None:
    assert str(digest_of(b"content")) == SHA256


def test_digests_are_values() -> None:
    assert {parse_digest(SHA256), parse_digest(SHA256)} == {Digest(*SHA256.split(":"))}
