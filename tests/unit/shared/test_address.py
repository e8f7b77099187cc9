"""Where the database is: read from a file that holds a password."""

import ssl
from pathlib import Path

import pytest

from mirror.shared.address import Address, parse_address, read_address
from tests.support.tls import Authority

SECRET = "s3cr/t of ours"  # noqa: S105 - which no message may hold
LOGIN = "mirror:s3cr%2Ft%20of%20ours"


def test_an_address_is_read_with_all_of_its_parts() -> None:
    address = parse_address(f"postgresql://{LOGIN}@db.example:6432/cache")
    assert address.hosts == (("db.example", 6432),)
    assert (address.name, address.user, address.password) == ("cache", "mirror", SECRET)
    assert SECRET not in repr(address) + str(address)


def test_several_hosts_are_tried_in_order() -> None:
    address = parse_address(f"postgres://{LOGIN}@a.example,b.example:6432,[::1]:1/cache")
    assert address.hosts == (("a.example", 5432), ("b.example", 6432), ("::1", 1))
    assert str(address) == "a.example:5432,b.example:6432,[::1]:1/cache"


@pytest.mark.parametrize(
    ("where", "mode", "in_clear"),
    [
        ("db.example/cache", "verify-full", False),
        ("127.0.0.1/cache", "disable", False),
        ("[::1]/cache", "disable", False),
        ("localhost/cache", "disable", False),
        ("/cache?host=/run/postgresql", "disable", False),
        ("127.0.0.1,db.example/cache", "verify-full", False),
        ("127.0.0.1/cache?sslmode=verify-full", "verify-full", False),
        ("db.example/cache?sslmode=verify-ca", "verify-ca", False),
        ("db.example/cache?sslmode=disable", "disable", True),
    ],
)
def test_tls_is_verified_unless_nobody_is_on_the_way_or_it_is_said_so(
    where: str, mode: str, *, in_clear: bool
) -> None:
    address = parse_address(f"postgresql://{LOGIN}@{where}")
    assert (address.mode, address.is_in_clear) == (mode, in_clear)


@pytest.mark.parametrize("mode", ["require", "prefer", "allow", "off", ""])
def test_tls_that_nobody_verifies_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="sslmode is one of verify-full"):
        parse_address(f"postgresql://{LOGIN}@db.example/cache?sslmode={mode}")


@pytest.mark.parametrize(
    "text",
    [
        "", "db.example", f"mysql://{LOGIN}@db.example/cache", f"postgresql://{LOGIN}@db.example",
        f"postgresql://{LOGIN}@/cache", "postgresql://db.example/cache",
        f"postgresql://{LOGIN}@db.example:0/cache", f"postgresql://{LOGIN}@db.example:x/cache",
        f"postgresql://{LOGIN}@db.example/cache\npostgresql://x", f"postgresql://{LOGIN}@[db/cache",
        f"postgresql://{LOGIN}@db.example/cache#x", f"postgresql://{LOGIN}@db.example/cache?sslmode",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_nothing_of_it_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="holds no database's URL") as caught:
        parse_address(text)
    assert "s3cr" not in str(caught.value)


def test_parameters_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ValueError, match="parameters beside sslmode") as caught:
        parse_address(f"postgresql://{LOGIN}@db.example/cache?options={SECRET.replace(' ', '')}")
    assert "s3cr" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_address(tmp_path / "nothing")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read: no text"):
        read_address(tmp_path / "bytes")


def test_names_and_authorities_are_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    text = f"postgresql://{LOGIN}@db.example/cache?sslrootcert={authority.ca_file}"
    context = parse_address(text).make_context()
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    loose = parse_address(f"{text}&sslmode=verify-ca").make_context()
    assert isinstance(loose, ssl.SSLContext)
    assert (loose.verify_mode, loose.check_hostname) == (ssl.CERT_REQUIRED, False)


def test_a_certificate_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    text = f"postgresql://{LOGIN}@db.example/cache?sslrootcert={tmp_path}/nothing"
    with pytest.raises(ValueError, match="cannot be used: No such file"):
        parse_address(text).make_context()


def test_without_tls_there_is_no_context() -> None:
    address: Address = parse_address(f"postgresql://{LOGIN}@127.0.0.1/cache")
    assert address.make_context() is False
