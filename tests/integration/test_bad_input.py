"""Bad input: each a clear error, nothing asked of upstream, nothing lost."""

import asyncio
import json

import pytest

from tests.conftest import StartMirror
from tests.support.client import raw_request
from tests.support.images import digest_of, image, random_layer
from tests.support.upstream import ScriptedRegistry

DIGEST = digest_of(b"x")
SHA512 = digest_of(b"x", "sha512")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v2/UPPER/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a//b/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a/../b/manifests/1", 400, "NAME_INVALID"),
        ("/v2/../../etc/manifests/passwd", 400, "NAME_INVALID"),
        ("/v2/a%2Fb/manifests/1", 400, "NAME_INVALID"),
        ("/v2/%2e%2e/manifests/1", 400, "NAME_INVALID"),
        ("/v2/-a/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a___b/manifests/1", 400, "NAME_INVALID"),
        ("/v2//manifests/1", 400, "NAME_INVALID"),
        ("/v2/a:5000/b/manifests/1", 404, "NAME_UNKNOWN"),
        ("/v2/a:b/c/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a/b:5000/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a:5000/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a/tags/list?" + "&".join(f"k{n}=1" for n in range(33)), 400, "NAME_INVALID"),
        ("/v2/a/manifests/1?x=" + "y" * 4096, 400, "NAME_INVALID"),
        (f"/v2/{'a' * 256}/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a/manifests/.tag", 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/", 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/%2e", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/a/manifests/{'t' * 129}", 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/sha256:short", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/latest", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/", 400, "DIGEST_INVALID"),
        (f"/v2/a/blobs/{DIGEST.upper()}", 400, "DIGEST_INVALID"),
        (f"/v2/a/blobs/{DIGEST}0", 400, "DIGEST_INVALID"),
        (f"/v2/a/blobs/{DIGEST.replace('sha256', 'sha512')}", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/sha256:../../../../../../etc/passwd", 404, "NAME_UNKNOWN"),
        ("/v2/a/referrers/latest", 400, "DIGEST_INVALID"),
        ("/v2/a/tags/list?n=many", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/a/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"),
        (f"/v2/_catalog?n={'9' * 30}", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/a/tags", 404, "NAME_UNKNOWN"),
        ("/v2/a/tags/all", 404, "NAME_UNKNOWN"),
        ("/v1/a", 404, "NAME_UNKNOWN"),
        ("/", 404, "NAME_UNKNOWN"),
        ("/v2/a/manifests/1?ns=unknown.example", 404, "NAME_UNKNOWN"),
    ],
)
async def test_what_cannot_be_meant_is_refused_before_anyone_is_asked(
    upstream: ScriptedRegistry, start_mirror: StartMirror, *, target: str, status: int, code: str
) -> None:
    mirror = await start_mirror()
    answer = await mirror.client.get(target)
    assert upstream.requests == []
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/json"
    (error,) = json.loads(answer.body)["errors"]
    assert error["code"] == code
    assert error["message"]


@pytest.mark.parametrize(
    "target",
    [
        "/v2/manifests/blobs/tags/manifests/1",  # words of the API are fine names
        "/v2/a-b/c__d/e.f/manifests/1",
        f"/v2/{'a' * 200}/b/manifests/{'t' * 128}",
        f"/v2/a/blobs/{SHA512}",
        f"/v2/a/manifests/{SHA512}",
        f"/v2/a/blobs/{DIGEST.replace(':', '%3A')}",
        f"/v2/a/manifests/{DIGEST.replace(':', '%3a')}",
    ],
)
async def test_what_is_unusual_but_right_reaches_upstream(
    upstream: ScriptedRegistry, start_mirror: StartMirror, target: str
) -> None:
    mirror = await start_mirror()
    assert (await mirror.client.get(target)).status == 404
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v2/\xff HTTP/1.1",
        b"GET /v2/\x1b[31m HTTP/1.1",
        b"GET /v2/" + b"a" * 20_000 + b" HTTP/1.1",
        b"GET /v2/ HTTP/9.9",
        b"NONSENSE",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS, where plain HTTP is spoken
        b"GET /v2/ HTTP/1.1\r\nUser-Agent: \x01",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: -1",
        b"GET /v2/ HTTP/1.1\r\nX: " + b"a" * 20_000,
    ],
    ids=range(9),
)
async def test_what_is_no_http_is_400_and_the_next_client_is_served(
    upstream: ScriptedRegistry, start_mirror: StartMirror, line: bytes
) -> None:
    mirror = await start_mirror()
    host, _, port = mirror.host.partition(":")
    answer = await raw_request(host, int(port), line + b"\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert (await mirror.client.get("/v2/")).status == 200


@pytest.mark.parametrize(
    "target", ["http://a@127.0.0.1:9/v2/a/manifests/1", "//127.0.0.1:9/v2/a/manifests/1"]
)
async def test_the_mirror_is_no_proxy(
    upstream: ScriptedRegistry, start_mirror: StartMirror, target: str
) -> None:
    mirror = await start_mirror()
    host, _, port = mirror.host.partition(":")
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await raw_request(host, int(port), request.encode())
    assert answer.startswith(b"HTTP/1.1 404")
    assert upstream.requests == []


@pytest.mark.parametrize("host", ["mirror.example:5000", "MIRROR.example:5000"])
async def test_a_target_in_the_form_that_proxies_are_sent_is_read_like_any_other(
    upstream: ScriptedRegistry, start_mirror: StartMirror, host: str
) -> None:
    app = upstream.add(image(random_layer(10, seed=1)), "library/a", "1")
    mirror = await start_mirror()
    address, _, port = mirror.host.partition(":")
    target = "http://mirror.example:5000/v2/a/manifests/1"
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    answer = await raw_request(address, int(port), request.encode())
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(app.manifest)


async def test_a_body_that_comes_with_a_get_is_nobodys_business(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(image(random_layer(10, seed=1)), "library/a", "1")
    mirror = await start_mirror()
    host, _, port = mirror.host.partition(":")
    request = (
        b"GET /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    answer = await raw_request(host, int(port), request)
    assert answer.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("body", [b"\r\n", b"Content-Length: 5\r\n\r\nhello"])
@pytest.mark.parametrize("protocol", [b"h2c", b"TLS/1.0", b"websocket"])
async def test_who_offers_another_protocol_is_told_that_nothing_after_it_is_read(
    start_mirror: StartMirror, protocol: bytes, body: bytes
) -> None:
    """aiohttp would lose what comes with it, and read on in the middle of that."""
    mirror = await start_mirror()
    host, _, port = mirror.host.partition(":")
    offering = (
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n"
    )
    following = b"GET /v2/a/tags/list HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with asyncio.timeout(10):
        answer = await raw_request(host, int(port), offering + body + following)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("path", ["manifests/1", f"blobs/{DIGEST}", "tags/list"])
async def test_a_refusal_of_any_kind_is_told_as_the_registry_told_it(
    upstream: ScriptedRegistry, start_mirror: StartMirror, path: str
) -> None:
    mirror = await start_mirror()
    upstream.fault(status=418)
    answer = await mirror.client.get(f"/v2/org/app/{path}")
    assert answer.status == 418
    assert json.loads(answer.body)["errors"][0]["code"] == "UNKNOWN"
