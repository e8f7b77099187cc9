"""The client sends what it was told to, byte by byte, and shows what came back."""

import pytest

from tests.support.client import client, get, raw_request
from tests.support.upstream import ScriptedRegistry


@pytest.mark.parametrize(
    "target", ["/v2/a%2Fb/tags/list", "/v2/../x", "/v2//x?n=%2B&last=a+b", "/v2/%41"]
)
async def test_a_target_is_sent_as_it_was_written(upstream: ScriptedRegistry, target: str) -> None:
    async with client(upstream.url) as pull:
        await pull.get(target)
    assert [asked.target for asked in upstream.requests] == [target]


async def test_every_header_line_is_sent(upstream: ScriptedRegistry) -> None:
    async with client(upstream.url) as pull:
        await pull.manifest("app", "1")
    assert len(upstream.requests[0].headers.getall("Accept")) == 4


async def test_nothing_is_followed_or_decoded(upstream: ScriptedRegistry) -> None:
    headers = {"Location": "/v2/", "Content-Encoding": "gzip"}
    upstream.fault(status=307, body=b"not gzip", headers=headers)
    answer = await get(f"{upstream.url}/v2/x")
    assert (answer.status, answer.body) == (307, b"not gzip")
    assert "Accept-Encoding" not in upstream.requests[0].headers


async def test_a_malformed_request_gets_out(upstream: ScriptedRegistry) -> None:
    answer = await raw_request("127.0.0.1", upstream.port, b"GET /v2/\x01 nonsense\r\n\r\n")
    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
