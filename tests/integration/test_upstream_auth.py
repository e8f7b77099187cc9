"""Token servers, passwords and redirects: credentials go where they belong, and nowhere else."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from mirror.aio.slots import Urgency
from mirror.oci.digest import digest_of
from mirror.oci.errors import Denied, Unavailable
from mirror.oci.reference import Repository
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from tests.conftest import StartMirror
from tests.support.auth import ACR_SERVICE, BasicAuth, BearerAuth
from tests.support.client import MANIFEST_TYPES
from tests.support.clock import FakeClock
from tests.support.edge import registry_at
from tests.support.images import Image, image, random_layer
from tests.support.mirror import Settings, upstream_at
from tests.support.tls import Authority
from tests.support.upstream import Cdn, ScriptedRegistry

APP = image(random_layer(50_000, seed=5))
[LAYER] = APP.layers
BLOB = digest_of(APP.blobs[LAYER])
BASIC = "Basic " + base64.b64encode(b"joe:secret").decode()


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(APP, "team/app", "1")


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("secret\n", encoding="utf-8")
    return file


@pytest.fixture
def joe(password: Path) -> Settings:
    return {"username": "joe", "password_file": str(password)}


def _source(repository: str = "team/app") -> Scope:
    return Scope(Repository("hub", repository))


async def _pull(registry: Registry) -> bytes:
    blobs = registry.blobs(_source())
    async with blobs.open_blob(BLOB, 0, None, avoid=None, urgency=Urgency()) as body:
        return b"".join([chunk async for chunk in body.chunks])


def _authorizations(registry: ScriptedRegistry, kind: str) -> list[str | None]:
    return [asked.headers.get("Authorization") for asked in registry.asked(kind)]


# Tokens.


@pytest.mark.parametrize("service", ["registry.docker.io", ACR_SERVICE])
@pytest.mark.parametrize("key", ["token", "access_token", "both"])
async def test_a_challenge_is_answered_with_a_token_for_pulling_this_repository(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, service: str, key: Any
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", service=service, key=key)
    async with registry_at(upstream.url, clock) as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
    [token] = upstream.asked("token")
    assert "scope=repository" in token.query
    assert [asked.status for asked in upstream.asked("blob")] == [401, 200]
    assert _authorizations(upstream, "token") == [None]


async def test_parallel_requests_share_one_token(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    async with registry_at(upstream.url, clock) as registry:
        await asyncio.gather(*(registry.head_blob(_source(), BLOB) for _ in range(20)))
        assert upstream.auth.issued == 1
        upstream.auth.revoke()
        await asyncio.gather(*(registry.head_blob(_source(), BLOB) for _ in range(20)))
        assert upstream.auth.issued == 2


async def test_a_token_is_reused_until_shortly_before_it_expires(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", life=300)
    async with registry_at(upstream.url, clock) as registry:
        await registry.head_blob(_source(), BLOB)
        clock.advance(269)
        await registry.head_blob(_source(), BLOB)
        assert upstream.auth.issued == 1
        clock.advance(2)
        await registry.head_blob(_source(), BLOB)
        assert upstream.auth.issued == 2
    assert [asked.status for asked in upstream.asked("blob")] == [401, 200, 200, 200]


async def test_a_token_that_tells_nothing_of_its_life_is_good_for_a_minute(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", life=60, omit_expires_in=True)
    async with registry_at(upstream.url, clock) as registry:
        await registry.head_blob(_source(), BLOB)
        clock.advance(50)
        await registry.head_blob(_source(), BLOB)
        assert upstream.auth.issued == 1
        clock.advance(5)
        await registry.head_blob(_source(), BLOB)
        assert upstream.auth.issued == 2


async def test_each_repository_has_a_token_of_its_own_and_no_challenge_of_its_own(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    upstream.add(APP, "team/other")
    async with registry_at(upstream.url, clock) as registry:
        await registry.head_blob(_source(), BLOB)
        await registry.head_blob(_source("team/other"), BLOB)
    assert [asked.status for asked in upstream.asked("blob")] == [401, 200, 200]


async def test_a_token_that_expires_in_the_middle_of_a_fill_is_renewed(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", life=300)
    mirror = await start_mirror()
    gate = upstream.hold(LAYER, after=25_000)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(mirror.client.blob("team/app", LAYER))
        await gate.reached()
        clock.advance(301)
        gate.cut()
    assert pull.result().digest == LAYER
    assert [asked.status for asked in upstream.asked("blob")] == [401, 206, 401, 206]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_by_the_token_server_is_a_denial(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, status: int
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    upstream.fault(kind="token", status=status)
    async with registry_at(upstream.url, clock) as registry:
        with pytest.raises(Denied):
            await registry.head_blob(_source(), BLOB)
        assert registry.tells_tags("app")


async def test_a_token_that_does_not_help_is_a_denial(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", private={"team/app": {"joe"}})
    async with registry_at(upstream.url, clock) as registry:
        with pytest.raises(Denied):
            await _pull(registry)


async def test_a_token_server_that_limits_the_rate_is_left_alone(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    limit = upstream.fault(kind="token", status=429, headers={"Retry-After": "30"})
    async with registry_at(upstream.url, clock) as registry:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await _pull(registry)
        assert len(limit.struck) == 1
        assert registry.tells_tags("app")
        upstream.faults.clear()
        clock.advance(31)
        assert await _pull(registry) == APP.blobs[LAYER]


async def test_a_token_server_that_resets_connections_is_asked_again(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    resets = upstream.fault(kind="token", drop=True, times=2)
    async with registry_at(upstream.url, clock) as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
    assert len(resets.struck) == 2


@pytest.mark.parametrize(
    "trouble", [{"drop": True}, {"status": 503}, {"body": b"<html>"}, {"hang": True}]
)
async def test_a_token_server_in_trouble_is_an_outage(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, trouble: Settings
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    upstream.fault(kind="token", **trouble)
    async with registry_at(upstream.url, clock, stall_timeout=0.2) as registry:
        with pytest.raises(Unavailable):
            await _pull(registry)


@pytest.mark.parametrize("challenge", ["Bearer", 'Bearer realm=""', 'Bearer realm="ftp://x/"', "?"])
async def test_a_challenge_that_makes_no_sense_is_no_crash(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, challenge: str
) -> None:
    upstream.fault(status=401, headers={"WWW-Authenticate": challenge})
    async with registry_at(upstream.url, clock) as registry:
        with pytest.raises((Denied, Unavailable)):
            await _pull(registry)


# Credentials.


async def test_credentials_go_to_the_registrys_own_token_server_only(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, joe: Settings
) -> None:
    upstream.auth = BearerAuth(
        realm=f"{upstream.url}/token", users={"joe": "secret"}, private={"team/app": {"joe"}}
    )
    async with registry_at(upstream.url, clock, **joe) as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
    assert _authorizations(upstream, "token") == [BASIC]
    assert BASIC not in _authorizations(upstream, "blob")


@pytest.mark.parametrize("trusted", [False, True])
async def test_a_token_server_elsewhere_gets_credentials_only_if_the_operator_says_so(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, joe: Settings, *, trusted: bool
) -> None:
    auth = upstream.auth = BearerAuth(users={"joe": "secret"})
    async with ScriptedRegistry(clock=clock) as elsewhere:
        elsewhere.auth = auth
        host = f"localhost:{elsewhere.port}"
        auth.realm = f"http://{host}/token"
        hosts = (host,) if trusted else ()
        async with registry_at(upstream.url, clock, token_hosts=hosts, **joe) as registry:
            assert await _pull(registry) == APP.blobs[LAYER]
        assert _authorizations(elsewhere, "token") == [BASIC if trusted else None]


async def test_credentials_for_https_never_go_over_http(
    app: Image, clock: FakeClock, joe: Settings, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "tls")
    auth = BearerAuth(users={"joe": "secret"})
    async with (
        ScriptedRegistry(server_context=authority.server_context(), clock=clock) as secure,
        ScriptedRegistry(clock=clock) as plain,
    ):
        secure.add(APP, "team/app", "1")
        secure.auth = plain.auth = auth
        auth.realm = f"{plain.url}/token"
        ca_file = str(authority.ca_file)
        async with registry_at(secure.url, clock, ca_file=ca_file, **joe) as registry:
            assert await _pull(registry) == APP.blobs[LAYER]
        assert _authorizations(plain, "token") == [None]


async def test_a_certificate_that_is_not_trusted_is_named_as_the_reason(
    clock: FakeClock, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "tls")
    async with (
        ScriptedRegistry(server_context=authority.server_context()) as secure,
        registry_at(secure.url, clock) as registry,
    ):
        why = "a certificate that cannot be trusted: unable to get local issuer certificate"
        with pytest.raises(Unavailable, match=why):
            await _pull(registry)


async def test_a_registry_behind_plain_passwords_is_given_one(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, joe: Settings
) -> None:
    upstream.auth = BasicAuth(users={"joe": "secret"})
    async with registry_at(upstream.url, clock, **joe) as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
        assert await _pull(registry) == APP.blobs[LAYER]
    assert _authorizations(upstream, "blob") == [None, BASIC, BASIC]


async def test_a_password_that_changes_is_read_again(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, joe: Settings, password: Path
) -> None:
    upstream.auth = BasicAuth(users={"joe": "secret"})
    async with registry_at(upstream.url, clock, **joe) as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
        upstream.auth = BasicAuth(users={"joe": "fresh"})
        with pytest.raises(Denied):
            await _pull(registry)
        await asyncio.to_thread(password.write_text, "fresh\n", encoding="utf-8")
        assert await _pull(registry) == APP.blobs[LAYER]


async def test_a_registry_that_turns_to_tokens_is_followed(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, joe: Settings
) -> None:
    upstream.auth = BasicAuth(users={"joe": "secret"})
    async with registry_at(upstream.url, clock, **joe) as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
        upstream.auth = BearerAuth(realm=f"{upstream.url}/token", users={"joe": "secret"})
        assert await _pull(registry) == APP.blobs[LAYER]


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_storage_gets_the_link_as_it_was_signed_and_no_authorization(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, status: int, host: str
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    upstream.cdn = Cdn(status=status, host=host)
    async with registry_at(upstream.url, clock) as registry:
        assert await _pull(registry) == APP.blobs[LAYER]
    [asked] = upstream.asked("cdn")
    assert upstream.cdn.signature in asked.target
    assert "Authorization" not in asked.headers


async def test_storage_that_asks_for_a_password_gets_none(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, joe: Settings
) -> None:
    upstream.cdn = Cdn()
    upstream.fault(kind="cdn", status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    async with registry_at(upstream.url, clock, **joe) as registry:
        with pytest.raises(Unavailable):
            await _pull(registry)
        assert registry.tells_tags("app")
    assert {*_authorizations(upstream, "cdn"), *_authorizations(upstream, "blob")} == {None}


@pytest.mark.parametrize("allowed", [False, True])
async def test_https_leads_to_http_only_where_the_operator_allows_it(
    app: Image, clock: FakeClock, tmp_path: Path, *, allowed: bool
) -> None:
    authority = Authority(tmp_path / "tls")
    async with ScriptedRegistry(server_context=authority.server_context()) as secure:
        secure.add(APP, "team/app", "1")
        secure.cdn = Cdn()
        async with registry_at(
            secure.url, clock, ca_file=str(authority.ca_file), allow_http_redirect=allowed
        ) as registry:
            if allowed:
                assert await _pull(registry) == APP.blobs[LAYER]
            else:
                with pytest.raises(Unavailable, match="allow_http_redirect"):
                    await _pull(registry)
                assert secure.asked("cdn") == []
            assert registry.tells_tags("app")


async def test_a_token_is_never_fetched_over_http_for_https(
    app: Image, clock: FakeClock, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "tls")
    async with (
        ScriptedRegistry(server_context=authority.server_context()) as secure,
        ScriptedRegistry() as plain,
    ):
        secure.auth = BearerAuth(realm=f"{secure.url}/token")
        secure.fault(kind="token", status=307, headers={"Location": f"{plain.url}/token"})
        async with registry_at(
            secure.url, clock, ca_file=str(authority.ca_file), allow_http_redirect=True
        ) as registry:
            with pytest.raises(Unavailable):
                await _pull(registry)
        assert plain.requests == []


@pytest.mark.parametrize("location", ["{0}", "http://", "ftp://127.0.0.1/", "http://[::1", "//"])
async def test_a_redirect_that_leads_nowhere_is_no_outage_and_no_crash(
    upstream: ScriptedRegistry, app: Image, clock: FakeClock, location: str
) -> None:
    target = location.format(f"/v2/team/app/blobs/{LAYER}")
    loop = upstream.fault(kind="blob", status=307, headers={"Location": target})
    async with registry_at(upstream.url, clock) as registry:
        with pytest.raises(Unavailable):
            await _pull(registry)
        assert len(loop.struck) <= 11
        assert registry.tells_tags("app")


# What else is sent.


async def test_requests_carry_all_manifest_types_no_compression_and_no_cookies(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    upstream.fault(headers={"Set-Cookie": "session=1; Path=/"})
    odd = {
        "Accept": "text/html",
        "Accept-Encoding": "zstd, gzip",
        "Cookie": "a=b",
        "User-Agent": "x",
    }
    await mirror.client.get("/v2/team/app/manifests/1", headers=odd)
    await mirror.client.get(f"/v2/team/app/blobs/{LAYER}", headers=odd)
    assert {asked.kind for asked in upstream.requests} == {"tag", "blob"}
    for asked in upstream.requests:
        assert asked.headers["Accept-Encoding"] == "identity"
        assert "Cookie" not in asked.headers
        assert asked.headers["User-Agent"] != "x"
    [tag] = upstream.asked("tag")
    assert {kind.strip() for kind in tag.headers["Accept"].split(",")} == {*MANIFEST_TYPES, "*/*"}


async def test_the_mirrors_clients_authorization_stays_here(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url)})
    await mirror.client.get("/v2/team/app/manifests/1", headers={"Authorization": "Bearer mine"})
    assert _authorizations(upstream, "tag") == [None]
