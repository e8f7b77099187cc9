"""What another process sends is held to the grammar when it is decoded."""

import msgspec
import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.reference import Reference, Repository, Tag

Value = Digest | Tag | Repository
GOOD: list[Value] = [
    digest_of(b"x"),
    Digest("sha512", "a" * 128),
    Tag("3.20"),
    Repository("registry.local:5000", "library/alpine"),
]


@pytest.mark.parametrize("value", GOOD, ids=str)
def test_a_value_arrives_as_it_was(value: Value) -> None:
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=Value)
    assert arrived == value
    assert hash(arrived) == hash(value)


@pytest.mark.parametrize(
    "sent",
    [
        ["digest", "sha256", "../" * 21 + "x"],
        ["digest", "sha256", "A" * 64],
        ["digest", "sha256", "a" * 63 + "\n"],
        ["digest", "sha256", "a" * 64 + "\n"],
        ["digest", "sha256", "a" * 128],
        ["digest", "md5", "a" * 64],
        ["tag", "../x"],
        ["tag", "x\n"],
        ["tag", ""],
        ["tag", "x" * 129],
        ["repository", "docker.io", "../etc"],
        ["repository", "docker.io", "org/app\n"],
        ["repository", "docker.io", "a" * 256],
        ["repository", "x" * 262, "org/app"],
    ],
    ids=repr,
)
def test_what_the_grammar_does_not_have_does_not_arrive(sent: list[str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=Value)


def test_a_reference_is_a_tag_or_a_digest_and_no_repository() -> None:
    sent = msgspec.msgpack.encode(Repository("docker.io", "org/app"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(sent, type=Reference)
