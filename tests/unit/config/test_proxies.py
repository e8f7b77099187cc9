import pytest

from mirror.config import Config, ConfigError, Endpoint, parse, read_proxies
from mirror.config.proxies import Proxy

PROXY = "http://proxy.example:3128"


def uses(proxies: str, host: str, *, port: int = 443) -> bool:
    found = read_proxies({"HTTPS_PROXY": PROXY, "NO_PROXY": proxies})
    return found.find("https", host, port) is not None


def endpoint(**settings: object) -> Endpoint:
    endpoints = [{"url": "https://ghcr.io"} | settings]
    return (
        parse({"upstream": {"ghcr.io": {"endpoints": endpoints}}}).upstream["ghcr.io"].endpoints[0]
    )


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("http://proxy.example/", "http://proxy.example:80"),
        ("https://proxy.example", "https://proxy.example:443"),
        ("socks5://proxy.example", "socks5://proxy.example:1080"),
        ("socks5h://[fd00::1]:1080", "socks5://[fd00::1]:1080"),
    ],
)
def test_a_proxy_is_written_as_its_url(written: str, shown: str) -> None:
    assert str(endpoint(proxy=written).proxy) == shown
    assert str(read_proxies({"HTTPS_PROXY": written}).https) == shown


@pytest.mark.parametrize(
    "written", ["ftp://proxy", "http://", "http://a:b:c", "http://proxy:0", "http://p r", 5, ""]
)
def test_what_is_no_proxy_is_refused_with_words(written: object) -> None:
    with pytest.raises(ConfigError, match=r"endpoints\[0\]\.proxy: .*proxy's URL"):
        endpoint(proxy=written)


def test_passwords_are_in_files_and_are_quoted_nowhere() -> None:
    with pytest.raises(ConfigError, match="proxy_password_file") as caught:
        endpoint(proxy="http://joe:s3cret@proxy.example")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match="environment: HTTPS_PROXY: not a proxy's URL") as caught:
        read_proxies({"HTTPS_PROXY": "ftp://joe:s3cret@proxy.example"})
    assert "s3cret" not in str(caught.value)


def test_a_user_needs_a_password_and_a_proxy() -> None:
    with pytest.raises(ConfigError, match="go together"):
        endpoint(proxy=PROXY, proxy_username="joe")
    with pytest.raises(ConfigError, match="needs proxy"):
        endpoint(proxy="direct", proxy_username="joe", proxy_password_file=__file__)


def test_the_environment_counts_by_scheme_and_in_capitals_first() -> None:
    proxies = read_proxies({"HTTPS_PROXY": "a", "https_proxy": "b", "http_proxy": "c"})
    assert proxies.find("https", "ghcr.io", 443) == Proxy("http", "a", 80)
    assert proxies.find("http", "ghcr.io", 80) == Proxy("http", "c", 80)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_host_is_reached_directly(host: str) -> None:
    assert not uses("", host)


@pytest.mark.parametrize(
    ("exemptions", "host"),
    [
        ("corp.example", "corp.example"),
        ("other, corp.example", "registry.corp.example"),
        ("CORP.example", "Registry.Corp.Example."),
        (".corp.example", "registry.corp.example"),
        ("*.corp.example", "registry.corp.example"),
        ("corp.example:443", "registry.corp.example"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("fd00::/8", "fd00::1"),
        ("[fd00::1]:443", "fd00::1"),
        ("*", "ghcr.io"),
    ],
)
def test_what_is_exempt_is_reached_directly(exemptions: str, host: str) -> None:
    assert not uses(exemptions, host)


@pytest.mark.parametrize(
    ("exemptions", "host"),
    [
        ("", "ghcr.io"),
        (",", "ghcr.io"),
        (".corp.example", "corp.example"),
        ("corp.example", "notcorp.example"),
        ("corp.example:5000", "corp.example"),
        ("10.0.0.0/8", "11.1.2.3"),
        ("10.0.0.0/8", "10.example"),
    ],
)
def test_nothing_else_is_exempt(exemptions: str, host: str) -> None:
    assert uses(exemptions, host)


def test_an_endpoints_own_word_goes_before_the_environments() -> None:
    proxies = read_proxies({"HTTPS_PROXY": PROXY, "NO_PROXY": "*"})
    own = endpoint(proxy="socks5://other.example")
    found = proxies.find_for(own.url, own=own.proxy)
    assert str(found) == "socks5://other.example:1080"
    everywhere = read_proxies({"HTTPS_PROXY": PROXY})
    assert everywhere.find_for("https://ghcr.io", own=endpoint(proxy="direct").proxy) is None
    assert str(everywhere.find_for("https://ghcr.io", own=endpoint().proxy)) == PROXY


def test_what_is_shown_can_be_read_again() -> None:
    for setting in ("direct", "socks5://proxy.example"):
        config = parse({"upstream": {"g": {"endpoints": [{"url": "https://g", "proxy": setting}]}}})
        assert parse(config.redacted()) == config
    assert read_proxies({}).find("https", "ghcr.io", 443) is None
    assert Config().upstream["docker.io"].endpoints[0].proxy is None
