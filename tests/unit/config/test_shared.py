"""`[shared]`: several mirrors that are one cache."""

from pathlib import Path
from typing import Any

import pytest

from mirror.config import ConfigError, parse


@pytest.fixture
def shared(tmp_path: Path) -> dict[str, Any]:
    for name in ("database", "bucket"):
        (tmp_path / name).write_text("postgresql://mirror:hidden@db.example/mirror")
    return {
        "database_file": str(tmp_path / "database"),
        "bucket": "s3://mirror-cache/prefix",
        "credentials_file": str(tmp_path / "bucket"),
    }


def problem(shared: dict[str, Any], **changed: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parse({"shared": {**shared, **changed}})
    [line] = caught.value.problems
    return line


def test_a_mirror_is_by_itself_unless_it_is_told_otherwise() -> None:
    assert parse({}).shared is None
    assert "shared" not in parse({}).redacted()


def test_what_is_not_said_has_defaults(shared: dict[str, Any]) -> None:
    settings = parse({"shared": shared}).shared
    assert settings is not None
    assert (settings.lease, settings.max_size, settings.redirect) == (15.0, 2 * 2**40, "never")
    assert settings.endpoint is None


def test_secrets_are_no_part_of_the_configuration(shared: dict[str, Any]) -> None:
    shown = parse({"shared": shared}).redacted()
    assert shown["shared"]["database_file"] == shared["database_file"]
    assert "hidden" not in str(shown)
    assert parse(shown).redacted() == shown


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("s3://mirror-cache", "s3://mirror-cache"),
        ("s3://mirror-cache/", "s3://mirror-cache"),
        ("gs://mirror.cache/a/b/", "gs://mirror.cache/a/b"),
        ("az://container/a_b", "az://container/a_b"),
    ],
)
def test_a_bucket_may_have_a_prefix(shared: dict[str, Any], written: str, meant: str) -> None:
    settings = parse({"shared": {**shared, "bucket": written}}).shared
    assert settings is not None
    assert settings.bucket == meant


@pytest.mark.parametrize(
    "bucket",
    [
        "mirror-cache", "http://mirror-cache", "s3://", "s3://a/../b", "s3://a//b", "s3://Cache",
        "s3://key:hidden@cache", "s3://cache?region=x", "s3://cache/" + "a" * 300, "s3://cache/a b",
    ],
)  # fmt: skip
def test_what_is_no_bucket_is_refused_and_not_quoted(shared: dict[str, Any], bucket: str) -> None:
    line = problem(shared, bucket=bucket)
    assert line.startswith("shared.bucket: not a bucket; write it like")
    assert "hidden" not in line


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("endpoint", "s3.example:8333", "not the URL of a server"),
        ("endpoint", "https://key:hidden@s3.example", "holds credentials"),
        ("endpoint", "https://s3.example/?a=b", "not the URL of a server"),
        ("database_file", "/nowhere/database", "cannot be read"),
        ("credentials_file", "/nowhere/bucket", "cannot be read"),
        ("lease", "100ms", 'must be from "1s" to "5m"'),
        ("lease", "1h", 'must be from "1s" to "5m"'),
        ("max_size", "0 B", "must be more than zero"),
        ("redirect", "always", "must be 'never' or 'large'"),
        ("databse_file", "x", "unknown key; did you mean database_file?"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    shared: dict[str, Any], setting: str, value: object, words: str
) -> None:
    line = problem(shared, **{setting: value})
    assert words in line
    assert "hidden" not in line


def test_database_and_bucket_have_to_be_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"shared": {}})
    assert caught.value.problems == [
        "shared.database_file: is required", "shared.bucket: is required"
    ]  # fmt: skip
