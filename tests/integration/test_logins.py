"""Logging in by way of the mirror: `/v2/` under a name of its own, for `access = "client"`.

docker, podman and skopeo take the challenge of a registry from there, and nowhere else.
"""

import asyncio
import base64
import logging
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import StartMirror
from tests.support.auth import BasicAuth, BearerAuth
from tests.support.client import Answer, client
from tests.support.clock import FakeClock
from tests.support.evil import Evil, says
from tests.support.images import image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import ScriptedRegistry

HOST = {"Host": "private.mirror.example"}
DOCKER = {"User-Agent": "docker/29.0.0 go/go1.25 UpstreamClient(docker-ce)"}
BASIC = 'Basic realm="registry"'


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture
def token_server(upstream: ScriptedRegistry) -> BearerAuth:
    """As Docker Hub's and GHCR's."""
    upstream.auth = BearerAuth(users={"anna": "secret"}, private={"org/app": {"anna"}})
    upstream.auth.realm = f"{upstream.url}/token"
    return upstream.auth


@pytest.fixture
def passwords(upstream: ScriptedRegistry) -> BasicAuth:
    """As docker-registry's with htpasswd, Nexus' and Artifactory's."""
    upstream.auth = BasicAuth(users={"anna": "secret"})
    return upstream.auth


@pytest.fixture
async def mirror(start_mirror: StartMirror, upstream: ScriptedRegistry) -> InnerMirror:
    upstream.add(image(random_layer(1000, seed=1)), "org/app", "1")
    hosts = ["private.mirror.example", "127.0.0.1:5999"]
    private = upstream_at(upstream.url) | {"access": "client", "hosts": hosts}
    public = upstream_at(upstream.url) | {"default": True, "hosts": ["public.mirror.example"]}
    return await start_mirror({"docker.io": public, "ghcr.io": private})


async def log_in(mirror: InnerMirror, **headers: str) -> Answer:
    return await mirror.client.get("/v2/", headers=HOST | headers)


async def token_of(auth: BearerAuth, name: str, password: str) -> str | None:
    """What a client gets of the token server to log in with; it asks for no scope then."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(
            f"{auth.realm}?account={name}&client_id=docker&offline_token=true&service={auth.service}",
            headers=basic(name, password),
        ) as response,
    ):
        return (await response.json())["token"] if response.status == 200 else None


async def test_a_registry_with_a_token_server_challenges_docker_as_it_would_directly(
    mirror: InnerMirror, token_server: BearerAuth
) -> None:
    for headers in ({}, DOCKER):
        answer = await log_in(mirror, **headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == (
            f'Bearer realm="{token_server.realm}",service="registry.test"'
        )
        assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
        assert b"UNAUTHORIZED" in answer.body


async def test_a_token_for_the_right_password_logs_in_and_pulls(
    mirror: InnerMirror, token_server: BearerAuth
) -> None:
    token = await token_of(token_server, "anna", "secret")
    assert (await log_in(mirror, Authorization=f"Bearer {token}")).status == 200
    assert (await log_in(mirror, Authorization="Bearer made-up")).status == 401


async def test_a_password_that_is_right_logs_in_and_one_that_is_wrong_does_not(
    mirror: InnerMirror, passwords: BasicAuth
) -> None:
    assert (await log_in(mirror)).headers["WWW-Authenticate"] == BASIC
    for _ in range(2):
        assert (await log_in(mirror, **basic("anna", "secret"))).status == 200  # asked each time
        wrong = await log_in(mirror, **basic("anna", "guessed"))
        assert wrong.status == 401
        assert b"refuses this name and password" in wrong.body
    passwords.users = {}  # anna has gone
    assert (await log_in(mirror, **basic("anna", "secret"))).status == 401


async def test_a_machine_that_keeps_trying_a_wrong_password_does_not_get_the_mirror_shut_out(
    mirror: InnerMirror, upstream: ScriptedRegistry, passwords: BasicAuth, clock: FakeClock
) -> None:
    bert = basic("bert", "not known yet")
    for _ in range(10):
        answer = await log_in(mirror, **bert)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, BASIC)
    assert len(upstream.asked("ping")) == 1
    passwords.users = {"bert": "not known yet"}
    clock.advance(11)
    assert (await log_in(mirror, **bert)).status == 200


async def test_head_is_answered_as_get(mirror: InnerMirror, passwords: BasicAuth) -> None:
    answer = await mirror.client.head("/v2/", headers=HOST)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, BASIC)


@pytest.mark.parametrize(
    "host", ["PRIVATE.mirror.example", "private.mirror.example:8443", "127.0.0.1:5999"]
)
async def test_a_name_or_a_port_of_its_own_tells_which_registry_is_meant(
    mirror: InnerMirror, passwords: BasicAuth, host: str
) -> None:
    assert (await mirror.client.get("/v2/", headers={"Host": host})).status == 401


async def test_ns_tells_which_registry_is_meant(mirror: InnerMirror, passwords: BasicAuth) -> None:
    assert (await mirror.client.get("/v2/?ns=ghcr.io")).status == 401
    assert (await mirror.client.get("/v2/?ns=docker.io", headers=HOST)).status == 200


@pytest.mark.parametrize(
    "host", [None, "unknown.example", "127.0.0.1:5000", "public.mirror.example"]
)
async def test_the_shared_address_and_public_names_ask_nobody_and_want_no_password(
    mirror: InnerMirror, upstream: ScriptedRegistry, passwords: BasicAuth, host: str | None
) -> None:
    answer = await mirror.client.get(
        "/v2/", headers=basic("a", "b") | ({} if host is None else {"Host": host})
    )
    assert answer.status == 200
    assert "WWW-Authenticate" not in answer.headers
    assert upstream.requests == []


async def test_a_registry_that_wants_nothing_lets_everybody_in(
    mirror: InnerMirror, upstream: ScriptedRegistry
) -> None:
    assert (await log_in(mirror)).status == 200
    assert upstream.questions() == [("ping", "GET", "")]


async def test_every_pull_begins_with_v2_and_upstream_is_asked_for_its_challenge_once_a_minute(
    mirror: InnerMirror, upstream: ScriptedRegistry, passwords: BasicAuth, clock: FakeClock
) -> None:
    answers = await asyncio.gather(*(log_in(mirror) for _ in range(20)))
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {BASIC}
    assert len(upstream.asked("ping")) == 1
    clock.advance(61)
    upstream.auth = None  # the operator has opened it
    assert (await log_in(mirror)).status == 200
    assert len(upstream.asked("ping")) == 2


async def test_the_mirrors_own_credentials_log_nobody_in(
    start_mirror: StartMirror, upstream: ScriptedRegistry, passwords: BasicAuth, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("secret", encoding="utf-8")
    own = {"username": "anna", "password_file": str(tmp_path / "password")}
    mirror = await start_mirror(
        {
            "ghcr.io": upstream_at(upstream.url, **own)
            | {"access": "client", "hosts": ["private.mirror.example"]}
        }
    )
    assert (await log_in(mirror)).status == 401
    assert [asked.headers.get("Authorization") for asked in upstream.requests] == [None]


@pytest.mark.parametrize("agent", [{}, DOCKER])
async def test_a_login_while_upstream_is_down_fails_as_an_outage_and_not_as_a_wrong_password(
    mirror: InnerMirror, upstream: ScriptedRegistry, passwords: BasicAuth, agent: dict[str, str]
) -> None:
    upstream.fault(kind="ping", status=503)
    assert (await log_in(mirror, **agent)).status == 502
    assert (await log_in(mirror, **basic("anna", "secret"), **agent)).status == 502


async def test_in_an_outage_the_challenge_is_still_told_so_that_grants_can_be_used(
    mirror: InnerMirror, upstream: ScriptedRegistry, passwords: BasicAuth, clock: FakeClock
) -> None:
    assert (await log_in(mirror)).status == 401
    clock.advance(3600)
    upstream.fault(kind="ping", status=503)
    answer = await log_in(mirror)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, BASIC)


async def test_a_registry_that_limits_logins_is_still_asked_for_images(
    mirror: InnerMirror, upstream: ScriptedRegistry, passwords: BasicAuth
) -> None:
    upstream.fault(kind="ping", status=429, headers={"Retry-After": "600"})
    limited = await log_in(mirror, **basic("anna", "guessed"))
    assert (limited.status, limited.headers["Retry-After"]) == (429, "600")
    anna = HOST | basic("anna", "secret")
    assert (await mirror.client.get("/v2/org/app/manifests/1", headers=anna)).status == 200


async def test_no_password_is_logged(
    mirror: InnerMirror, passwords: BasicAuth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for password in ("secret", "guessed"):
        headers = basic("anna", password)
        await log_in(mirror, **headers)
        secret = headers["Authorization"].partition(" ")[2]
        assert caplog.records
        for record in caplog.records:
            assert secret not in f"{record.getMessage()} {vars(record)}"


async def test_several_challenges_reach_the_client_each_in_a_field_of_its_own(
    start_mirror: StartMirror,
) -> None:
    """Registries that take tokens and passwords alike; clients read one challenge of each field."""
    told = ['Bearer realm="https://x.example/token"', BASIC]
    fields = [b"WWW-Authenticate: " + one.encode() for one in told]
    async with Evil() as registry:
        registry.on("/v2/", says(b"HTTP/1.1 401 Unauthorized", b"Content-Length: 0", *fields))
        private = {"access": "client", "hosts": ["private.mirror.example"]}
        mirror = await start_mirror({"ghcr.io": upstream_at(registry.url) | private})
        for target in ("/v2/", "/v2/org/app/manifests/1"):
            answer = await mirror.client.get(target, headers=HOST)
            assert answer.headers.getall("WWW-Authenticate") == told


async def _guess(mirror: InnerMirror, target: str, number: int) -> int:
    headers = HOST | basic("anna", f"guess {number}")
    return (await mirror.client.get(target, headers=headers)).status


@pytest.mark.parametrize("target", ["/v2/", "/v2/org/app/manifests/1"])
async def test_whoever_guesses_passwords_is_stopped_before_the_registry_shuts_the_mirror_out(
    mirror: InnerMirror,
    upstream: ScriptedRegistry,
    passwords: BasicAuth,
    clock: FakeClock,
    target: str,
) -> None:
    told = [await _guess(mirror, target, number) for number in range(25)]
    assert told == [401] * 20 + [429] * 5
    kind = "ping" if target == "/v2/" else "manifest"
    assert len(upstream.asked(kind)) <= 2 * 20  # a manifest is asked for by HEAD and by GET
    answer = await mirror.client.get(target, headers=HOST | basic("anna", "secret"))
    assert answer.status == 429
    assert answer.headers["Retry-After"] == "6"
    async with client(mirror.url, address="127.0.0.2") as other:
        answer = await other.get(target, headers=HOST | basic("anna", "secret"))
        assert answer.status == 200
    clock.advance(7)
    answer = await mirror.client.get(target, headers=HOST | basic("anna", "secret"))
    assert answer.status == 200


async def test_many_guesses_at_once_are_no_more_than_in_a_row(
    mirror: InnerMirror, passwords: BasicAuth
) -> None:
    told = await asyncio.gather(*(_guess(mirror, "/v2/", number) for number in range(60)))
    assert sorted(told) == [401] * 20 + [429] * 40


async def test_tokens_that_have_run_out_are_no_guesses(
    mirror: InnerMirror, token_server: BearerAuth
) -> None:
    for number in range(30):
        old = f"Bearer token-{number}"
        for target in ("/v2/", "/v2/org/app/manifests/1"):
            answer = await mirror.client.get(target, headers=HOST | {"Authorization": old})
            assert answer.status == 401
