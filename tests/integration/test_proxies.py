"""Hosts that reach registries through a proxy only: HTTP and SOCKS5, in companies' networks.

Names that end in `.test` are known to the proxy alone.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mirror.aio.slots import Urgency
from mirror.config import EnvironmentProxies, read_proxies
from mirror.oci.digest import digest_of
from mirror.oci.errors import RegistryError, Unavailable
from mirror.oci.reference import Repository, Tag
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from tests.conftest import StartMirror
from tests.support.auth import BearerAuth
from tests.support.clock import FakeClock
from tests.support.edge import registry_at
from tests.support.evil import Evil, redirects
from tests.support.images import Image, image, random_layer
from tests.support.mirror import running_mirror, upstream_at
from tests.support.process import free_port
from tests.support.proxy import ForwardProxy
from tests.support.tls import Authority
from tests.support.upstream import Cdn, ScriptedRegistry

APP = image(random_layer(50_000, seed=5))
[LAYER] = APP.layers
BLOB = digest_of(APP.blobs[LAYER])
SCOPE = Scope(Repository("hub", "team/app"))
SCHEMES = ["http", "socks5"]


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "team/app", "1")


@pytest.fixture
async def proxy() -> AsyncIterator[ForwardProxy]:
    async with ForwardProxy() as running:
        yield running


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("s3cret:@\n", encoding="utf-8")
    return file


async def _pull(registry: Registry) -> bytes:
    await registry.get_manifest(SCOPE, Tag("1"))
    blobs = registry.blobs(SCOPE)
    async with blobs.open_blob(BLOB, 0, None, avoid=None, urgency=Urgency()) as body:
        return b"".join([bytes(chunk) async for chunk in body.chunks])


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_registry_token_server_and_storage_are_reached_through_it(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, proxy: ForwardProxy, scheme: str
) -> None:
    upstream.auth = BearerAuth(realm=f"http://auth.test:{upstream.port}/token")
    upstream.cdn = Cdn(host="cdn.test")
    url = f"http://registry.test:{upstream.port}"
    async with registry_at(url, clock, proxy=f"{scheme}://{proxy.host}") as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
    assert proxy.hosts == {"registry.test", "auth.test", "cdn.test"}
    assert all(asked.target.startswith("/") for asked in upstream.requests)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_tls_goes_through_it_and_a_company_may_sign_what_it_reads(
    tmp_path: Path, clock: FakeClock, proxy: ForwardProxy, scheme: str
) -> None:
    """As with Zscaler: certificates are of the proxy's own authority."""
    authority = Authority(tmp_path / "company")
    identity = authority.issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identity.certificate_file, identity.private_key_file)
    async with ScriptedRegistry(server_context=context, clock=clock) as upstream:
        upstream.add(APP, "team/app", "1")
        upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
        through: dict[str, Any] = {"proxy": f"{scheme}://{proxy.host}"}
        ca_file = str(authority.ca_file)
        async with registry_at(upstream.url, clock, ca_file=ca_file, **through) as registry:
            assert await _pull(registry) == APP.blobs[LAYER]
        async with registry_at(upstream.url, clock, **through) as registry:
            with pytest.raises(Unavailable, match="certificate"):
                await _pull(registry)
    assert {method for method, _, _ in proxy.asked} == {"CONNECT" if scheme == "http" else "SOCKS"}


@pytest.mark.parametrize("way", ["http http", "http https", "socks5 http", "socks5 https"])
@pytest.mark.usefixtures("app")
async def test_its_password_is_in_a_file_that_may_change(
    upstream: ScriptedRegistry, clock: FakeClock, proxy: ForwardProxy, password: Path, way: str
) -> None:
    proxy.users = {"joe": "other"}
    [scheme, target] = way.split()
    url = f"{target}://registry.test:{upstream.port}"
    async with registry_at(
        url, clock, proxy=f"{scheme}://{proxy.host}", proxy_username="joe",
        proxy_password_file=str(password),
    ) as registry:  # fmt: skip
        with pytest.raises(Unavailable, match="proxy_password_file") as caught:
            await registry.head_blob(SCOPE, BLOB)
        assert "s3cret" not in caught.value.message
        await asyncio.to_thread(password.write_text, "other", encoding="utf-8")
        clock.advance(60)
        if target == "http":
            assert await registry.head_blob(SCOPE, BLOB) == 50_000
            return
        with pytest.raises(Unavailable) as caught:  # it gets there; what answers has no TLS
            await registry.head_blob(SCOPE, BLOB)
        assert "the proxy" not in caught.value.message
    heads = [asked.headers for asked in upstream.requests]
    assert not any("Proxy-Authorization" in each for each in heads)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_who_is_not_there_is_named(
    upstream: ScriptedRegistry, clock: FakeClock, proxy: ForwardProxy, scheme: str
) -> None:
    nobody = f"{scheme}://127.0.0.1:{free_port()}"
    async with registry_at("https://registry.test", clock, proxy=nobody) as registry:
        with pytest.raises(Unavailable, match="the proxy cannot be reached"):
            await registry.head_blob(SCOPE, BLOB)
    url = f"https://registry.test:{free_port()}"
    async with registry_at(url, clock, proxy=f"{scheme}://{proxy.host}") as registry:
        with pytest.raises(Unavailable, match=r"registry\.test cannot be reached: the proxy"):
            await registry.head_blob(SCOPE, BLOB)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "localhost", "[::1]"])
async def test_nobody_is_led_to_what_the_proxy_alone_reaches(
    clock: FakeClock, proxy: ForwardProxy, scheme: str, host: str
) -> None:
    """The proxy itself is inside; that the registry is behind it does not make the registry so."""
    async with Evil() as evil:
        evil.on("/v2/", redirects(f"http://{host}:{evil.port}/secret"))
        url = f"http://registry.test:{evil.port}"
        async with registry_at(url, clock, proxy=f"{scheme}://{proxy.host}") as registry:
            with pytest.raises(Unavailable, match="private_redirects"):
                await registry.head_blob(SCOPE, BLOB)
    assert proxy.hosts == {"registry.test"}


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_what_is_open_behind_it_is_not_told(
    clock: FakeClock, proxy: ForwardProxy, scheme: str
) -> None:
    messages = set()
    for host in ("closed.test", "refused.test"):
        async with Evil() as evil:
            port = free_port()
            proxy.refuses = {("refused.test", port)}
            evil.on("/v2/", redirects(f"https://{host}:{port}/"))
            url = f"http://registry.test:{evil.port}"
            async with registry_at(url, clock, proxy=f"{scheme}://{proxy.host}") as registry:
                with pytest.raises(RegistryError) as caught:
                    await registry.head_blob(SCOPE, BLOB)
                messages.add(caught.value.message.replace(host, "host"))
    assert messages == {"host cannot be reached: the proxy does not let us through"}


# The environment.


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_without_a_setting_the_environment_says(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, proxy: ForwardProxy, scheme: str
) -> None:
    proxy.users = {"joe": "p@ss"}
    proxies = read_proxies({"http_proxy": f"{scheme}://joe:p%40ss@{proxy.host}"})
    upstream.cdn = Cdn(host="cdn.test")
    url = f"http://registry.test:{upstream.port}"
    async with registry_at(url, clock, proxies=proxies) as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
    assert proxy.hosts == {"registry.test", "cdn.test"}
    assert "p@ss" not in repr(proxies)


async def test_an_endpoint_may_be_reached_without_the_environments(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, proxy: ForwardProxy
) -> None:
    proxies = read_proxies({"HTTP_PROXY": f"http://{proxy.host}"})
    for own in ("direct", None):  # this host is never reached through it
        async with registry_at(upstream.url, clock, proxies=proxies, proxy=own) as registry:
            assert await registry.head_blob(SCOPE, BLOB) == 50_000
    assert not proxy.asked


async def test_exempt_storage_is_reached_directly(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, proxy: ForwardProxy
) -> None:
    upstream.cdn = Cdn(host="localhost")
    proxies = read_proxies({"HTTP_PROXY": f"http://{proxy.host}"})
    url = f"http://registry.test:{upstream.port}"
    async with registry_at(url, clock, proxies=proxies, private_redirects=True) as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
    assert proxy.hosts == {"registry.test"}


async def test_a_client_is_served_through_it(
    upstream: ScriptedRegistry, app: Image, start_mirror: StartMirror, proxy: ForwardProxy
) -> None:
    url = f"http://registry.test:{upstream.port}"
    mirror = await start_mirror({"hub": upstream_at(url, proxy=f"socks5://{proxy.host}")})
    answer = await mirror.client.get(f"/v2/team/app/blobs/{LAYER}")
    assert answer.body == APP.blobs[LAYER]


async def test_the_log_says_which_is_in_use_and_not_its_password(
    tmp_path: Path, upstream: ScriptedRegistry, proxy: ForwardProxy, password: Path
) -> None:
    settings = {
        "proxy": f"http://{proxy.host}",
        "proxy_username": "joe",
        "proxy_password_file": str(password),
    }
    async with running_mirror(tmp_path, {"hub": upstream_at(upstream.url, **settings)}) as mirror:
        log = mirror.process.log()
    assert f"proxy=http://{proxy.host}" in log
    assert "s3cret" not in log


def test_no_environment_is_no_proxy() -> None:
    assert read_proxies({}) == EnvironmentProxies()
