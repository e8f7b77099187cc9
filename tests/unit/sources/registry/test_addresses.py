import pytest
from yarl import URL

from mirror.sources.registry.addresses import parse_address, parse_location

ASKED = URL("https://registry.example/v2/app/blobs/a?b=c")


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("https://cdn.example/a%2Fb?signature=a%2Bb", "https://cdn.example/a%2Fb?signature=a%2Bb"),
        ("//cdn.example/a", "https://cdn.example/a"),
        ("/v2/other", "https://registry.example/v2/other"),
        ("c?d", "https://registry.example/v2/app/blobs/c?d"),
        ("https://cdn.example/" + "a" * 16_000, "https://cdn.example/" + "a" * 16_000),
    ],
)
def test_a_location_is_taken_as_it_is_written(location: str, leads_to: str) -> None:
    assert str(parse_location(location, asked=ASKED)) == leads_to


def test_a_token_server_may_have_a_name_of_any_language() -> None:
    assert parse_address("https://tökens.example/a").raw_host == "xn--tkens-jua.example"


@pytest.mark.parametrize(
    "address",
    [
        "http://[",
        "http://x:99999999/",
        "http://x" + "ü." * 30_000,
        " http://" + "é" * 60_000,
        "http:/\t/" + "é" * 60_000,
        "//" + "a." * 30_000 + "/",
        "mailto:me",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - from several libraries
        parse_address(address)
    with pytest.raises(ValueError):  # noqa: PT011
        parse_location(address, asked=ASKED)
