import pytest
from yarl import URL

from mirror.oci.digest import digest_of
from mirror.oci.errors import Unavailable
from mirror.sources.registry import standing
from mirror.sources.targets import Standing

HTTPS = URL("https://registry.test/v2/app/blobs/uploads/", encoded=True)
HTTP = URL("http://127.0.0.1:5000/v2/app/blobs/uploads/", encoded=True)
AT = Standing("https://registry.test/v2/app/blobs/uploads/1?_state=a", 1000, 5)


@pytest.mark.parametrize(
    ("location", "asked", "found"),
    [
        ("/v2/app/blobs/uploads/1", HTTPS, "https://registry.test/v2/app/blobs/uploads/1"),
        ("1?x=1", HTTPS, "https://registry.test/v2/app/blobs/uploads/1?x=1"),
        # Its query comes back as it was written, whatever that is.
        ("/u?_state=a%2Bb%2fc%3D%3D&q=%7E", HTTPS, "https://registry.test/u?_state=a%2Bb%2fc%3D%3D&q=%7E"),
        ("https://registry.test:443/u?a", HTTPS, "https://registry.test/u?a"),
        ("https://s3.test/u?X-Sig=1%2F2", HTTPS, "https://s3.test/u?X-Sig=1%2F2"),
        # A registry behind a proxy that ends TLS.
        ("http://registry.test/u", HTTPS, "https://registry.test/u"),
        ("http://registry.test:443/u", HTTPS, "https://registry.test/u"),
        ("http://127.0.0.1:5000/u", HTTP, "http://127.0.0.1:5000/u"),
        ("https://127.0.0.1:5000/u", HTTP, "http://127.0.0.1:5000/u"),  # one port, one way
        ("https://127.0.0.1/u", HTTP, "https://127.0.0.1/u"),
        ("/u?a#part", HTTPS, "https://registry.test/u?a"),
    ],
)  # fmt: skip
def test_an_upload_is_where_the_registry_says(location: str, asked: URL, found: str) -> None:
    assert standing.begun({"Location": location}, asked=asked) == Standing(found)


@pytest.mark.parametrize(
    "location",
    [
        "",
        "ftp://registry.test/u",
        "http://other.test/u",
        "http://registry.test:5000/u",
        "https://registry.test/\x7f",
        "https://registry.test/é",
        "/" + "a" * 20_000,
        "https://[::1/u",
    ],
)
def test_an_upload_is_nowhere_else(location: str) -> None:
    with pytest.raises(Unavailable):
        standing.begun({"Location": location}, asked=HTTPS)


def test_it_is_nowhere_where_nothing_is_said() -> None:
    with pytest.raises(Unavailable):
        standing.begun({}, asked=HTTPS)


@pytest.mark.parametrize(
    ("told", "offset"),
    [
        (None, 1500),
        ("nonsense", 1500),
        ("0--1", 1500),
        ("0-0", 1500),
        ("0-1499", 1500),
        ("bytes=0-1499", 1500),
        ("0-1500", 1500),  # one more
        ("0-1255", 1256),  # kept in part
        ("0-499", 1500),  # of this part
        ("0-999", 1500),  # of the first part, for ever
        ("0-99999999999999999999", 1500),
    ],
)
def test_what_was_taken_is_kept_but_for_what_the_registry_says(
    told: str | None, offset: int
) -> None:
    headers = {} if told is None else {"Range": told}
    now = standing.sent(headers, AT, 500, asked=URL(AT.location, encoded=True))
    assert now == Standing(AT.location, offset, AT.least)


@pytest.mark.parametrize(
    ("told", "offset"),
    [(None, 1000), ("0-0", 1000), ("0-99", 1000), ("0-1999", 2000), ("bytes=0-1999", 2000)],
)
def test_what_was_acknowledged_is_not_taken_back(told: str | None, offset: int) -> None:
    headers = {} if told is None else {"Range": told}
    now = standing.told(headers, AT, asked=URL(AT.location, encoded=True))
    assert now == Standing(AT.location, offset, AT.least)


def test_a_chunks_least_length_is_told_with_the_beginning_and_stays() -> None:
    at = standing.begun({"Location": "/u", "OCI-Chunk-Min-Length": "5242880"}, asked=HTTPS)
    assert at.least == 5242880
    assert standing.sent({}, at, 1, asked=HTTPS).least == 5242880
    assert standing.begun({"Location": "/u", "OCI-Chunk-Min-Length": "x"}, asked=HTTPS).least == 0


def test_an_upload_is_ended_beside_the_registrys_own_query() -> None:
    digest = digest_of(b"")
    name = f"sha256%3A{digest.encoded}"
    for location, ended in (
        ("https://r.test/u?_state=a%2Bb", f"https://r.test/u?_state=a%2Bb&digest={name}"),
        ("https://r.test/u", f"https://r.test/u?digest={name}"),
        ("https://r.test/u?", f"https://r.test/u?digest={name}"),
    ):
        assert str(standing.ending(URL(location, encoded=True), digest)) == ended
