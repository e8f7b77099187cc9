"""What a registry says of its token server, or has that say, harms nobody where it is relayed."""

import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.evil import Evil, drips, drops, endless, hangs, head, redirects, says, tells
from tests.support.mirror import InnerMirror, upstream_at

REALMS = (
    b"",
    b"http://[",
    b"http://x:99999999/token",
    b"http://xn--example-9ua.com/token",
    b'http://\\"/token',
    b"http:///token",
    b"ftp://127.0.0.1/token",
    b"javascript:alert(1)",
    b"file:///etc/passwd",
    b"http://user:password@elsewhere.example/token",
    b"http://169.254.169.254/latest/meta-data",
    b"http://127.0.0.1/{0}{}{realm}%s#" + b"a" * 8000,
)
BEHAVIOURS = {
    "hangs": hangs,
    "drops": drops,
    "drips": drips(b"{" * 100, every=0.05),
    "endless": endless(b"1000\r\n" + b"x" * 4096 + b"\r\n", head(
        b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked"
    )),
    "redirects in circles": redirects("/token"),
    "redirects elsewhere": redirects("http://localhost:1/"),
    "an odd status": says(b"HTTP/1.1 999 Odd", b"Content-Length: 0"),
    "a status of 0": says(b"HTTP/1.1 000 Odd", b"Content-Length: 0"),
    "no HTTP": says(b"SSH-2.0-OpenSSH"),
    "fields of its own": tells(b"{}", b"Content-Type: a\x01b", b"Retry-After: " + b"9" * 5000),
}  # fmt: skip


@pytest.fixture
async def evil() -> AsyncIterator[Evil]:
    async with Evil() as evil:
        yield evil


@pytest.fixture
async def mirror(start_mirror: StartMirror, evil: Evil) -> InnerMirror:
    private = upstream_at(evil.url) | {"access": "client", "relay_tokens": "http"}
    fill = {"stall_timeout": "300ms", "connect_timeout": "1s"}
    return await start_mirror({"ghcr.io": private}, fill=fill)


async def address(mirror: InnerMirror, evil: Evil, realm: bytes) -> str | None:
    """The target at which the client is told to ask for tokens, if it is one of the mirror's."""
    evil.on("/v2/", says(
        b"HTTP/1.1 401 Who", b'WWW-Authenticate: Bearer realm="' + realm + b'",service="x"',
        b"Content-Length: 0",
    ))  # fmt: skip
    answer = await mirror.client.get("/v2/app/manifests/1")
    assert answer.status == 401
    told = answer.headers.get("WWW-Authenticate", "")
    match = re.search(rf'realm="http://{mirror.host}(/v2/_token/[^"]*)"', told)
    return match and match[1]


@pytest.mark.parametrize("realm", REALMS)
async def test_a_token_server_that_is_no_address_of_the_registrys_is_never_asked(
    mirror: InnerMirror, evil: Evil, realm: bytes
) -> None:
    target = await address(mirror, evil, realm)
    if target is not None:
        for method in ("GET", "POST"):
            async with mirror.client.open(f"{target}?scope=x", method=method) as response:
                assert response.status in {403, 404, 502}
    assert not [line for line in evil.asked if "token" in line]
    assert await mirror.metric("mirror_internal_errors_total") == 0


@pytest.mark.parametrize("manner", BEHAVIOURS)
async def test_whatever_a_token_server_answers_is_one_clients_trouble_and_ends(
    mirror: InnerMirror, evil: Evil, manner: str
) -> None:
    target = await address(mirror, evil, f"{evil.url}/token".encode())
    assert target is not None
    evil.on("/token", BEHAVIOURS[manner])
    for method in ("GET", "POST"):
        try:
            async with mirror.client.open(f"{target}?scope=x", method=method) as response:
                body = await response.read()
                assert response.status in {502, 504} or body == b"{}"
        except aiohttp.ClientError:
            pytest.fail("the mirror has broken off")
    assert await mirror.metric("mirror_internal_errors_total") == 0
    assert await mirror.metric("mirror_upstream_up") == 1
