"""`relay_tokens`: who cannot reach a registry's token server asks it by way of the mirror."""

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from mirror.aio.trust import trust
from mirror.config import ConfigError
from mirror.oci.challenge import Challenge, parse_challenges
from mirror.oci.token import key_of
from tests.conftest import StartMirror
from tests.support.auth import BearerAuth
from tests.support.client import Answer, raw_request
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.tls import Authority
from tests.support.upstream import ScriptedRegistry

HOST = "ghcr.mirror.example:8080"
JSON = {"Content-Type": "application/json"}


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@dataclass
class TokenServer:
    """Answers as it is told, and remembers what it was asked: method, target, user and form."""

    url: str = ""
    status: int = 200
    body: bytes = b'{"token":"plugh"}'
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    asked: list[tuple[str, str, str | None, str]] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        form = (await request.read()).decode()
        user = request.headers.get("Authorization")
        self.asked.append((request.method, request.raw_path, user, form))
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@pytest.fixture
async def server() -> AsyncIterator[TokenServer]:
    told = TokenServer()
    runner = web.ServerRunner(web.Server(told.answer, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    told.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield told
    await runner.cleanup()


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(1000, seed=1)), "org/app", "1")


@pytest.fixture
def auth(upstream: ScriptedRegistry) -> BearerAuth:
    upstream.auth = BearerAuth(users={"anna": "secret"}, private={"org/app": {"anna"}})
    upstream.auth.realm = f"{upstream.url}/token"
    return upstream.auth


def relaying(upstream: ScriptedRegistry, relay: object = "http", **endpoint: Any) -> dict[str, Any]:
    settings = {"access": "client", "hosts": ["ghcr.mirror.example"], "relay_tokens": relay}
    return {"ghcr.io": upstream_at(upstream.url, **endpoint) | settings}


@pytest.fixture
async def mirror(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image, auth: BearerAuth
) -> InnerMirror:
    return await start_mirror(relaying(upstream))


async def challenge(mirror: InnerMirror, target: str = "/v2/", host: str = HOST) -> Challenge:
    answer = await mirror.client.get(target, headers={"Host": host})
    assert answer.status == 401
    [told] = parse_challenges(answer.headers.getall("WWW-Authenticate"))
    return told


async def ask(
    mirror: InnerMirror,
    realm: str,
    headers: dict[str, str] | None = None,
    *,
    form: bytes | None = None,
) -> Answer:
    """Ask at a realm of the mirror's own, whatever name it is under."""
    assert realm.startswith(f"http://{HOST}/v2/_token/")
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            "GET" if form is None else "POST",
            URL(realm.replace(HOST, mirror.host), encoded=True),
            data=form,
            headers=headers,
        ) as response,
    ):
        return Answer(response.status, response.headers, await response.read())


@pytest.mark.parametrize("target", ["/v2/", "/v2/org/app/manifests/1", "/v2/org/app/tags/list"])
async def test_the_challenge_names_the_mirror_by_the_name_that_the_client_used(
    mirror: InnerMirror, target: str
) -> None:
    told = await challenge(mirror, target)
    assert told.parameters["realm"].startswith(f"http://{HOST}/v2/_token/")
    assert told.parameters["realm"].endswith("/ghcr.io")
    assert told.parameters["service"] == "registry.test"
    scope = None if target == "/v2/" else "repository:org/app:pull"
    assert told.parameters.get("scope") == scope


async def test_a_client_logs_in_and_pulls_without_ever_reaching_the_token_server_itself(
    mirror: InnerMirror, upstream: ScriptedRegistry, app: Image
) -> None:
    told = (await challenge(mirror, "/v2/org/app/manifests/1")).parameters
    query = f"?service={told['service']}&scope={told['scope']}"
    wrong = await ask(mirror, told["realm"] + query, basic("anna", "guessed"))
    assert wrong.status == 401
    answer = await ask(mirror, told["realm"] + query, basic("anna", "secret"))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    mine = {"Authorization": f"Bearer {json.loads(answer.body)['token']}", "Host": HOST}
    pulled = await mirror.client.get("/v2/org/app/manifests/1", headers=mine)
    assert (pulled.status, pulled.body) == (200, app.manifest)
    assert len(upstream.asked("token")) == 2


async def test_containerd_which_names_the_registry_with_ns_is_led_to_the_mirror_too(
    mirror: InnerMirror,
) -> None:
    told = await challenge(mirror, "/v2/org/app/manifests/1?ns=ghcr.io", "mirror.example:5000")
    assert told.parameters["realm"].startswith("http://mirror.example:5000/v2/_token/")


async def test_query_and_form_pass_through_as_they_are(
    mirror: InnerMirror, auth: BearerAuth, server: TokenServer
) -> None:
    auth.realm = f"{server.url}/jwt/auth?tenant=1"  # on the registry's host, as GitLab's
    realm = (await challenge(mirror)).parameters["realm"]
    scopes = "scope=repository%3Aorg%2Fapp%3Apull&scope=repository:other:pull"
    await ask(mirror, f"{realm}?account=anna&{scopes}", basic("anna", "secret"))
    form = b"grant_type=refresh_token&refresh_token=a%2Bb&service=x"
    answer = await ask(mirror, realm, form=form)
    assert (answer.status, answer.body) == (200, server.body)
    user = basic("anna", "secret")["Authorization"]
    assert server.asked == [
        ("GET", f"/jwt/auth?tenant=1&account=anna&{scopes}", user, ""),
        ("POST", "/jwt/auth?tenant=1", None, form.decode()),
    ]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
async def test_a_refusal_of_the_token_server_is_passed_back(
    mirror: InnerMirror, auth: BearerAuth, server: TokenServer, status: int
) -> None:
    server.status, server.body = status, b'{"errors":[{"code":"NO"}]}'
    server.headers = JSON | {"Retry-After": "7", "Set-Cookie": "a=b"}
    auth.realm = f"{server.url}/token"
    answer = await ask(mirror, (await challenge(mirror)).parameters["realm"])
    assert (answer.status, answer.body) == (status, server.body)
    assert answer.headers["Retry-After"] == "7"
    assert "Set-Cookie" not in answer.headers


async def test_a_web_page_is_not_passed_back_as_one(
    mirror: InnerMirror, auth: BearerAuth, server: TokenServer
) -> None:
    server.body, server.headers = b"<script>1</script>", {"Content-Type": "text/html"}
    auth.realm = f"{server.url}/token"
    answer = await ask(mirror, (await challenge(mirror)).parameters["realm"])
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_after_a_restart_the_addresses_that_clients_know_still_lead_there(
    mirror: InnerMirror, start_mirror: StartMirror, upstream: ScriptedRegistry, auth: BearerAuth
) -> None:
    realm = (await challenge(mirror)).parameters["realm"]
    await mirror.stop()
    again = await start_mirror(relaying(upstream))
    answer = await ask(again, f"{realm}?service={auth.service}", basic("anna", "secret"))
    assert answer.status == 200


async def test_only_what_the_registry_has_named_can_be_asked(
    mirror: InnerMirror, server: TokenServer, upstream: ScriptedRegistry
) -> None:
    for key in (key_of(server.url), "0" * 16):
        answer = await mirror.client.get(f"/v2/_token/{key}/ghcr.io?service=x")
        assert answer.status == 404
    assert len(upstream.asked("ping")) == 1  # once, to know what it names; then that is known
    assert server.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "/v2/_token/",
        "/v2/_token/ghcr.io",
        "/v2/_token/../ghcr.io",
        f"/v2/_token/{'0' * 16}/",
        f"/v2/_token/{'0' * 16}/docker.io",
        f"/v2/_token/{'0' * 16}/ghcr.io/more",
        f"/v2/_token/{'0' * 16}/%00",
        f"/v2/_token/{'A' * 16}/ghcr.io",
        f"/v2/_token/{'0' * 16}/{'a' * 5000}",
    ],
)
async def test_addresses_that_are_none_are_404(
    mirror: InnerMirror, upstream: ScriptedRegistry, target: str
) -> None:
    assert (await mirror.client.get(target)).status == 404
    assert upstream.requests == []


async def test_a_token_server_elsewhere_is_asked_only_where_the_operator_says_so(
    start_mirror: StartMirror, upstream: ScriptedRegistry, auth: BearerAuth, server: TokenServer
) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    auth.realm = f"{elsewhere}/token"
    mirror = await start_mirror(relaying(upstream))
    realm = (await challenge(mirror)).parameters["realm"]
    refused = await ask(mirror, realm, basic("anna", "secret"))
    assert refused.status == 403
    assert b"token_hosts" in refused.body
    assert server.asked == []
    await mirror.stop()
    mirror = await start_mirror(relaying(upstream, token_hosts=["localhost"]))
    assert (await ask(mirror, realm, basic("anna", "secret"))).status == 200


async def test_what_another_host_answers_after_a_redirect_is_not_passed_back(
    mirror: InnerMirror, auth: BearerAuth, upstream: ScriptedRegistry, server: TokenServer
) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    upstream.fault(kind="token", status=307, headers={"Location": f"{elsewhere}/token"})
    realm = (await challenge(mirror)).parameters["realm"]
    answer = await ask(mirror, realm, basic("anna", "secret"))
    assert answer.status == 502
    assert b"plugh" not in answer.body
    assert server.asked == []  # nor is it asked
    upstream.fault(kind="token", status=307, headers={"Location": f"{elsewhere}/token"})
    assert (await ask(mirror, realm, form=b"password=secret")).status == 502
    assert server.asked == []  # a form follows no redirect at all


async def test_a_token_server_that_sends_too_much_or_nothing_is_an_outage(
    mirror: InnerMirror, auth: BearerAuth, server: TokenServer
) -> None:
    auth.realm = f"{server.url}/token"
    realm = (await challenge(mirror)).parameters["realm"]
    server.body = b"x" * (2**20 + 1)
    assert (await ask(mirror, realm)).status == 502
    auth.realm = "http://127.0.0.1:1/token"
    realm = (await challenge(mirror, "/v2/org/app/manifests/1")).parameters["realm"]
    assert (await ask(mirror, realm)).status == 502


async def test_a_form_that_is_too_large_is_refused(
    mirror: InnerMirror, auth: BearerAuth, server: TokenServer
) -> None:
    auth.realm = f"{server.url}/token"
    realm = (await challenge(mirror)).parameters["realm"]
    assert (await ask(mirror, realm, form=b"x" * 2**16)).status == 200
    answer = await ask(mirror, realm, form=b"x" * (2**16 + 1))
    assert answer.status == 400
    assert len(server.asked) == 1


async def test_forms_go_nowhere_else(mirror: InnerMirror) -> None:
    for target in ("/v2/", "/v2/org/app/blobs/uploads/", "/v2/org/_token/x", "/x/v2/_token/"):
        async with mirror.client.open(target, method="POST") as response:
            assert response.status == 405
    realm = (await challenge(mirror)).parameters["realm"].partition(HOST)[2]
    for method in ("HEAD", "PUT", "DELETE"):
        async with mirror.client.open(realm, method=method) as response:
            assert response.status == 405


async def test_nothing_of_it_is_logged(
    mirror: InnerMirror, auth: BearerAuth, server: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    auth.realm = f"{server.url}/token"
    realm = (await challenge(mirror)).parameters["realm"]
    await ask(mirror, f"{realm}?account=anna&password=xyzzy", basic("anna", "xyzzy"))
    await ask(mirror, realm, form=b"password=xyzzy")
    target = realm.partition(HOST)[2] + "?password=xyzzy"
    absolute = f"GET http://x{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    host, _, port = mirror.host.rpartition(":")
    assert b" 200 " in await raw_request(host, int(port), absolute.encode())
    lines = [record for record in caplog.records if "_token" in record.getMessage()]
    assert len(lines) == 3
    for record in caplog.records:
        text = f"{record.getMessage()} {vars(record)}"
        assert "xyzzy" not in text
        assert basic("anna", "xyzzy")["Authorization"] not in text
        assert "plugh" not in text


@pytest.mark.parametrize("host", ["", 'x"y', "a b", "x/../y", "x" * 300, "évil"])
async def test_a_host_that_is_none_becomes_no_address(mirror: InnerMirror, host: str) -> None:
    request = f"GET /v2/?ns=ghcr.io HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    name, _, port = mirror.host.rpartition(":")
    answer = await raw_request(name, int(port), request.encode())
    assert b"_token" not in answer


async def test_without_relay_tokens_nothing_is_relayed(
    start_mirror: StartMirror, upstream: ScriptedRegistry, auth: BearerAuth
) -> None:
    mirror = await start_mirror(relaying(upstream, relay=False))
    assert (await challenge(mirror)).parameters["realm"] == auth.realm
    answer = await mirror.client.get(f"/v2/_token/{key_of(auth.realm)}/ghcr.io")
    assert answer.status == 404
    assert upstream.asked("token") == []


async def test_many_who_ask_at_once_wait_for_each_other_and_not_for_ever(
    mirror: InnerMirror, auth: BearerAuth, server: TokenServer
) -> None:
    auth.realm = f"{server.url}/token"
    realm = (await challenge(mirror)).parameters["realm"]
    answers = await asyncio.gather(*(ask(mirror, realm) for _ in range(100)))
    assert {answer.status for answer in answers} == {200}


async def test_over_tls_of_its_own_the_address_is_https(
    start_mirror: StartMirror, upstream: ScriptedRegistry, auth: BearerAuth, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "tls")
    identity = authority.issue("server")
    mirror = await start_mirror(
        relaying(upstream, relay=True),
        server={
            "tls_certificate_file": str(identity.certificate_file),
            "tls_private_key_file": str(identity.private_key_file),
        },
    )
    context = trust(authority.ca_file)
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"https://{mirror.host}/v2/org/app/manifests/1?ns=ghcr.io"
        async with session.get(url) as response:
            [told] = parse_challenges(response.headers.getall("WWW-Authenticate"))
        realm = told.parameters["realm"]
        assert realm.startswith(f"https://{mirror.host}/v2/_token/")
        query = f"{realm}?service={auth.service}"
        async with session.get(query, headers=basic("anna", "secret")) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"relay_tokens": True}, "in the clear"),
        ({"relay_tokens": "https", "access": "mirror"}, "for access"),
        ({"relay_tokens": "ftp"}, "relay_tokens"),
        ({"relay_tokens": 1}, "relay_tokens"),
    ],
)
async def test_a_relay_that_would_give_passwords_away_is_refused_with_words(
    start_mirror: StartMirror, upstream: ScriptedRegistry, settings: dict[str, Any], why: str
) -> None:
    upstreams = {"ghcr.io": relaying(upstream)["ghcr.io"] | settings}
    with pytest.raises(ConfigError, match=why):
        await start_mirror(upstreams)


async def test_whoever_guesses_at_a_token_server_by_way_of_the_mirror_is_stopped(
    mirror: InnerMirror, upstream: ScriptedRegistry
) -> None:
    told = (await challenge(mirror)).parameters
    query = f"?service={told['service']}"
    answers = [
        await ask(mirror, told["realm"] + query, basic("anna", f"guess {number}"))
        for number in range(22)
    ]
    assert [answer.status for answer in answers] == [401] * 20 + [429] * 2
    assert len(upstream.asked("token")) == 20
    assert (await ask(mirror, told["realm"] + query)).status == 200  # who shows none guesses none
