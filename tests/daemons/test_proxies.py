"""Real proxies on the way to upstream: tinyproxy (HTTP) and microsocks (SOCKS5), with passwords."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.images import image, random_layer
from tests.support.mirror import running_mirror, upstream_at
from tests.support.process import Process, free_port
from tests.support.require import require
from tests.support.tls import Authority
from tests.support.upstream import Cdn, ScriptedRegistry

pytestmark = pytest.mark.daemons

APP = image(random_layer(3_000_000, seed=5))
[LAYER] = APP.layers


@asynccontextmanager
async def _tinyproxy(directory: Path) -> AsyncIterator[str]:
    require("tinyproxy")
    port = free_port()
    lines = (f"Port {port}", "Listen 127.0.0.1", "BasicAuth joe s3cret", "Timeout 60")
    file = directory / "tinyproxy.conf"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    async with _running(directory, port, ["tinyproxy", "-d", "-c", str(file)]):
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def _microsocks(directory: Path) -> AsyncIterator[str]:
    require("microsocks")
    port = free_port()
    command = ["microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", "joe", "-P", "s3cret"]
    async with _running(directory, port, command):
        yield f"socks5://127.0.0.1:{port}"


@asynccontextmanager
async def _running(directory: Path, port: int, command: Sequence[str]) -> AsyncIterator[None]:
    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.transport.abort()
        return True

    async with Process(command, log=directory / "proxy.log", ready=listens):
        yield


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("start", [_tinyproxy, _microsocks])
async def test_an_image_comes_through_a_real_proxy(
    tmp_path: Path, start: Callable[[Path], AbstractAsyncContextManager[str]], *, tls: bool
) -> None:
    authority = Authority(tmp_path / "tls")
    identity, password = authority.issue("server"), tmp_path / "password"
    password.write_text("s3cret\n", encoding="utf-8")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identity.certificate_file, identity.private_key_file)
    settings = {
        "ca_file": str(authority.ca_file),
        "proxy_username": "joe",
        "proxy_password_file": str(password),
    }
    server = context if tls else None
    async with (
        start(tmp_path) as proxy,
        ScriptedRegistry(server_context=server, cdn_context=server) as upstream,
    ):
        upstream.add(APP, "team/app", "1")
        upstream.cdn = Cdn()
        table = upstream_at(upstream.url, proxy=proxy, **settings)
        async with running_mirror(tmp_path, {"hub": table}) as mirror:
            assert (await mirror.client.manifest("team/app", "1")).body == APP.manifest
            answer = await mirror.client.get(f"/v2/team/app/blobs/{LAYER}")
            assert answer.body == APP.blobs[LAYER]
            assert f"proxy={proxy}" in mirror.process.log()
        password.write_text("wrong\n", encoding="utf-8")
        async with running_mirror(tmp_path / "other", {"hub": table}) as mirror:
            answer = await mirror.client.get(f"/v2/team/app/blobs/{LAYER}")
            if not tls and start is _tinyproxy:  # its 401 might be the registry's own
                assert answer.status == 403
                return
            assert answer.status == 502
            assert b"proxy_password_file" in answer.body
