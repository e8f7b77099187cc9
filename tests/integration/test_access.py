"""Who may pull: networks, passwords, certificates, and each client's own authorization."""

import asyncio
import base64
import json
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import aiohttp
import bcrypt
import pytest

from mirror.aio.trust import trust
from mirror.config import ConfigError
from tests.conftest import StartMirror
from tests.support.auth import BearerAuth
from tests.support.client import Client, raw_request
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.process import until
from tests.support.tls import Authority
from tests.support.upstream import ScriptedRegistry

SIZE = 600_000


@pytest.fixture
def app(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(SIZE, seed=1)), "org/app", "1")


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


# Networks


@pytest.mark.parametrize(
    ("networks", "status"),
    [
        ([], 200),
        (["127.0.0.0/8"], 200),
        (["10.0.0.0/8", "127.0.0.1/32"], 200),
        (["10.0.0.0/8"], 403),
        (["::/0"], 403),
    ],
)
async def test_only_the_allowed_networks_may_pull(
    start_mirror: StartMirror,
    upstream: ScriptedRegistry,
    app: Image,
    networks: list[str],
    status: int,
) -> None:
    mirror = await start_mirror(server={"allowed_networks": networks})
    for target in ("/v2/", "/v2/org/app/manifests/1", "/v2/_catalog"):
        answer = await mirror.client.get(target)
        assert answer.status == status
        if status == 403:
            assert json.loads(answer.body)["errors"][0]["code"] == "DENIED"
    async with mirror.client.open("/v2/", method="PUT") as response:
        assert response.status == (405 if status == 200 else 403)
    assert bool(upstream.requests) == (status == 200)


# Passwords


@pytest.fixture
def htpasswd(tmp_path: Path) -> Path:
    file = tmp_path / "htpasswd"
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    file.write_text(f"# who may pull\n\nanna:{hashed}\n", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("anna", "wrong"),
        basic("bert", "secret"),
        basic("", ""),
        basic("# who may pull", ""),
        {"Authorization": "Bearer secret"},
        {"Authorization": "Basic ???"},
        {"Authorization": "Basic /w=="},
        {"Authorization": "Basic"},
    ],
)
async def test_without_the_password_there_is_a_challenge_and_nothing_else(
    start_mirror: StartMirror,
    upstream: ScriptedRegistry,
    app: Image,
    htpasswd: Path,
    headers: Mapping[str, str],
) -> None:
    mirror = await start_mirror(server={"htpasswd_file": str(htpasswd)})
    for target in ("/v2/", "/v2/org/app/manifests/1", "/v2/_catalog"):
        answer = await mirror.client.get(target, headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="mirror"'
        assert json.loads(answer.body)["errors"][0]["code"] == "UNAUTHORIZED"
    assert upstream.requests == []


async def test_the_password_opens_the_mirror_and_goes_no_further(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image, htpasswd: Path
) -> None:
    mirror = await start_mirror(server={"htpasswd_file": str(htpasswd)})
    for _ in range(2):  # checked, then remembered
        answer = await mirror.client.get("/v2/org/app/manifests/1", headers=basic("anna", "secret"))
        assert answer.status == 200
    assert (await mirror.client.get("/v2/")).status == 401
    assert all("Authorization" not in asked.headers for asked in upstream.requests)


async def test_bytes_that_are_no_text_are_no_password(
    start_mirror: StartMirror, htpasswd: Path
) -> None:
    mirror = await start_mirror(server={"htpasswd_file": str(htpasswd)})
    host, _, port = mirror.host.partition(":")
    request = (
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: \xff\xfe\r\n\r\n"
    )
    assert (await raw_request(host, int(port), request)).startswith(b"HTTP/1.1 401")


async def test_guessers_do_not_hold_up_whoever_knows_the_password(
    start_mirror: StartMirror, tmp_path: Path
) -> None:
    """By their own addresses, by names that there are not, or by somebody else's name."""
    cost = 9  # a check takes tens of milliseconds
    names = {name: bcrypt.hashpw(name.encode(), bcrypt.gensalt(cost)).decode() for name in "ab"}
    file = tmp_path / "htpasswd"
    file.write_text("".join(f"{name}:{known}\n" for name, known in names.items()), "utf-8")
    mirror = await start_mirror(server={"htpasswd_file": str(file), "workers": 1})
    refused = 0

    async def guess(name: str, number: int) -> None:
        nonlocal refused
        answer = await mirror.client.get("/v2/", headers=basic(name, f"wrong {number}"))
        assert answer.status in {401, 429}
        refused += answer.status == 401

    async def some_are_refused() -> bool:
        return refused > 0

    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(guess("a", number))
            tasks.create_task(guess(f"unknown {number}", number))
        await until(some_are_refused, within=20)
        assert (await mirror.client.get("/v2/", headers=basic("b", "b"))).status == 200
        assert refused < 30  # of 40 that may be wrong: their turns come one after another


def add_line(file: Path, line: str) -> None:
    with file.open("ab") as opened:
        opened.write(line.encode(errors="surrogateescape") + b"\n")


@pytest.mark.parametrize(
    "line", ["anna:secret", "anna:$apr1$x$y", "anna:$2y$05$tooshort", "anna", "anna:\udcff"]
)
async def test_a_password_file_that_cannot_be_used_is_refused_at_the_start(
    start_mirror: StartMirror, htpasswd: Path, line: str
) -> None:
    add_line(htpasswd, line)
    with pytest.raises(ConfigError, match="line 4: not name:bcrypt-hash") as refusal:
        await start_mirror(server={"htpasswd_file": str(htpasswd)})
    assert "secret" not in str(refusal.value)


# Certificates


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


async def over_tls(mirror: InnerMirror, context: ssl.SSLContext, target: str) -> tuple[int, bytes]:
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = Client(session, f"https://{mirror.host}")
        answer = await client.get(target)
        return answer.status, answer.body


async def test_over_tls_everything_is_the_same(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image, authority: Authority
) -> None:
    """There is no sendfile here; the bytes go by hand, on a miss and on a hit."""
    server = authority.issue("server")
    mirror = await start_mirror(
        server={
            "tls_certificate_file": str(server.certificate_file),
            "tls_private_key_file": str(server.private_key_file),
        }
    )
    context = trust(authority.ca_file)
    layer = app.layers[0]
    for _ in range(3):
        got = await over_tls(mirror, context, f"/v2/org/app/blobs/{layer}")
        assert got == (200, app.blobs[layer])
    assert upstream.questions() == [("blob", "GET", layer)]


async def test_only_clients_with_a_certificate_may_connect(
    start_mirror: StartMirror, app: Image, authority: Authority, tmp_path: Path
) -> None:
    server, anna = authority.issue("server"), authority.issue("anna")
    stranger = Authority(tmp_path / "elsewhere").issue("anna")
    mirror = await start_mirror(
        server={
            "tls_certificate_file": str(server.certificate_file),
            "tls_private_key_file": str(server.private_key_file),
            "client_ca_file": str(authority.ca_file),
        }
    )
    context = trust(authority.ca_file)
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await over_tls(mirror, context, "/v2/")
    context.load_cert_chain(stranger.certificate_file, stranger.private_key_file)
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await over_tls(mirror, context, "/v2/")
    context = trust(authority.ca_file)
    context.load_cert_chain(anna.certificate_file, anna.private_key_file)
    assert await over_tls(mirror, context, "/v2/org/app/manifests/1") == (200, app.manifest)


async def test_why_a_client_is_not_let_in_by_tls_is_told_and_counted(
    start_mirror: StartMirror,
    authority: Authority,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No certificate, another authority's, and plain HTTP: each in words, with its setting."""
    caplog.set_level("INFO", "mirror")
    server = authority.issue("server")
    stranger = Authority(tmp_path / "elsewhere").issue("anna")
    mirror = await start_mirror(
        server={
            "tls_certificate_file": str(server.certificate_file),
            "tls_private_key_file": str(server.private_key_file),
            "client_ca_file": str(authority.ca_file),
        }
    )
    nobody = trust(authority.ca_file)
    anna = trust(authority.ca_file)
    anna.load_cert_chain(stranger.certificate_file, stranger.private_key_file)
    for context in (nobody, anna, None):
        await knock(mirror, context)
    for status in ("496", "495", "497"):
        await mirror.until_metric("mirror_requests_total", 1, status=status)
    told = [vars(it)["fields"]["error"] for it in caplog.records if it.msg == "no request"]
    assert len(told) == 3
    assert "no certificate" in told[0]
    assert "its certificate does not do for server.client_ca_file" in told[1]
    assert "plain HTTP" in told[2]


async def knock(mirror: InnerMirror, context: ssl.SSLContext | None) -> None:
    """Ask for something, and wait until the mirror hangs up."""
    host, _, port = mirror.host.partition(":")
    with suppress(ssl.SSLError, ConnectionError):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        try:
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(10):
                await reader.read()
        finally:
            writer.transport.abort()


@pytest.mark.parametrize(
    "broken", ["tls_certificate_file", "tls_private_key_file", "client_ca_file"]
)
async def test_a_certificate_that_is_none_is_refused_at_the_start(
    start_mirror: StartMirror, authority: Authority, tmp_path: Path, broken: str
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense", encoding="utf-8")
    server = authority.issue("server")
    files = {
        "tls_certificate_file": server.certificate_file,
        "tls_private_key_file": server.private_key_file,
        "client_ca_file": authority.ca_file,
    } | {broken: nonsense}
    with pytest.raises(ConfigError):
        await start_mirror(server={name: str(file) for name, file in files.items()})


# Each client's own authorization


@pytest.fixture
async def personal(
    start_mirror: StartMirror, upstream: ScriptedRegistry, app: Image
) -> InnerMirror:
    """A mirror whose clients show their own tokens; org/app is anna's alone.

    A layer of it would come in segments, if it came on the mirror's authority.
    """
    upstream.auth = its_own(upstream)
    return await start_mirror(
        {"ghcr.io": {**upstream_at(upstream.url), "access": "client"}},
        fill={"segment_size": "64 KiB"},
    )


def its_own(upstream: ScriptedRegistry) -> BearerAuth:
    return BearerAuth(
        users={"anna": "secret", "bert": "hidden"},
        private={"org/app": {"anna"}},
        realm=f"{upstream.url}/token",
    )


def everything_of(app: Image) -> list[str]:
    return [
        "/v2/org/app/manifests/1",
        f"/v2/org/app/manifests/{app.digest}",
        f"/v2/org/app/blobs/{app.layers[0]}",
        "/v2/org/app/tags/list",
        f"/v2/org/app/referrers/{app.digest}",
    ]


async def token(upstream: ScriptedRegistry, name: str, password: str) -> dict[str, str]:
    """What a client gets when it follows the challenge."""
    async with aiohttp.ClientSession() as session:
        query = "service=registry.test&scope=repository:org/app:pull"
        async with session.get(
            f"{upstream.url}/token?{query}", headers=basic(name, password)
        ) as response:
            return {"Authorization": f"Bearer {(await response.json())['token']}"}


async def test_upstreams_challenge_is_relayed_to_the_client(
    upstream: ScriptedRegistry, personal: InnerMirror
) -> None:
    for method in (personal.client.get, personal.client.head):
        answer = await method("/v2/org/app/manifests/1")
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == (
            f'Bearer realm="{upstream.url}/token",service="registry.test",'
            'scope="repository:org/app:pull"'
        )
    # The mirror fetches no token of its own: it has no say here.
    assert upstream.questions() == [("tag", "HEAD", "1")] * 2


async def test_with_its_own_token_a_client_pulls_and_the_next_requests_are_hits(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image
) -> None:
    anna = await token(upstream, "anna", "secret")
    layer = app.layers[0]
    upstream.forget()
    manifest = await personal.client.get("/v2/org/app/manifests/1", headers=anna)
    blob = await personal.client.get(f"/v2/org/app/blobs/{layer}", headers=anna)
    assert (manifest.status, manifest.body) == (200, app.manifest)
    assert (blob.status, blob.body) == (200, app.blobs[layer])
    assert upstream.questions() == [
        ("tag", "HEAD", "1"),
        ("tag", "GET", "1"),
        ("blob", "GET", layer),
    ]
    assert {asked.headers["Authorization"] for asked in upstream.requests} == {
        anna["Authorization"]
    }
    upstream.forget()
    again = await personal.client.get("/v2/org/app/manifests/1", headers=anna)
    assert again.headers["Cache-Status"] == "mirror; hit"
    assert upstream.questions() == []


async def test_what_one_client_may_have_another_may_not(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image
) -> None:
    anna, bert = await token(upstream, "anna", "secret"), await token(upstream, "bert", "hidden")
    targets = everything_of(app)
    for target in targets:
        assert (await personal.client.get(target, headers=anna)).status == 200
    for headers in (bert, {}, {"Authorization": "Bearer made-up"}, basic("anna", "secret")):
        for target in targets:
            for method in (personal.client.get, personal.client.head):
                answer = await method(target, headers=headers)
                assert answer.status == 401
                assert "WWW-Authenticate" in answer.headers
                assert app.manifest not in answer.body
    assert await personal.metric("mirror_lookups_total", result="denied") == 4 * len(targets) * 2


async def statuses(mirror: InnerMirror, app: Image, *clients: Mapping[str, str]) -> set[int]:
    """Of the answers to every question about `app`, by GET and by HEAD, from each of `clients`."""
    return {
        (await method(target, headers=headers)).status
        for headers in clients
        for target in everything_of(app)
        for method in (mirror.client.get, mirror.client.head)
    }


def hide_from_all_but(upstream: ScriptedRegistry, owner: Mapping[str, str]) -> None:
    """Say "not found" for "no", as registries do that will not even tell what they have."""
    upstream.fault(
        status=404,
        where=lambda asked: (
            asked.kind != "token" and asked.headers.get("Authorization") != owner["Authorization"]
        ),
    )


async def test_a_not_found_is_no_permission_for_what_another_client_may_have(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image
) -> None:
    anna, bert = await token(upstream, "anna", "secret"), await token(upstream, "bert", "hidden")
    hide_from_all_but(upstream, anna)
    assert await statuses(personal, app, anna) == {200}
    assert await statuses(personal, app, bert, {}) == {404}
    assert await statuses(personal, app, anna) == {200}


async def test_what_is_hidden_from_one_client_is_not_missing_for_another(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image
) -> None:
    anna, bert = await token(upstream, "anna", "secret"), await token(upstream, "bert", "hidden")
    hide_from_all_but(upstream, anna)
    assert await statuses(personal, app, bert, {}) == {404}
    assert await statuses(personal, app, anna) == {200}


async def test_a_registry_that_refuses_every_head_lets_in_by_get(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image
) -> None:
    anna, bert = await token(upstream, "anna", "secret"), await token(upstream, "bert", "hidden")
    upstream.fault(method="HEAD", status=405)
    assert await statuses(personal, app, bert, {}) == {401}
    assert await statuses(personal, app, anna) == {200}
    assert await statuses(personal, app, bert, {}) == {401}


async def test_an_accelerator_is_no_authority_and_is_shown_no_clients_authorization(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image, clock: FakeClock
) -> None:
    """It has everything, and asks nobody who they are."""
    upstream.auth = its_own(upstream)
    async with ScriptedRegistry(clock=clock) as accelerator:
        accelerator.add(app, "org/app", "1")
        endpoints = [{"url": accelerator.url, "tags": False}, {"url": upstream.url}]
        mirror = await start_mirror({"ghcr.io": {"access": "client", "endpoints": endpoints}})
        anna = await token(upstream, "anna", "secret")
        bert = await token(upstream, "bert", "hidden")
        assert await statuses(mirror, app, bert, {}) == {401}
        assert await statuses(mirror, app, anna) == {200}
        assert await statuses(mirror, app, bert, {}) == {401}
        assert accelerator.bytes_sent(app.layers[0]) == SIZE
        assert [asked for asked in accelerator.requests if "Authorization" in asked.headers] == []


async def test_a_download_outlives_the_token_that_it_began_with(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image
) -> None:
    [layer] = app.layers
    anna = await token(upstream, "anna", "secret")
    await personal.client.get("/v2/org/app/manifests/1", headers=anna)
    target, gate = f"/v2/org/app/blobs/{layer}", upstream.hold(layer, after=50_000)
    async with asyncio.TaskGroup() as clients:
        pull = clients.create_task(personal.client.get(target, headers=anna))
        await gate.reached()
        assert isinstance(upstream.auth, BearerAuth)
        upstream.auth.revoke()
        gate.open()
    assert pull.result().body == app.blobs[layer]
    assert [asked.status for asked in upstream.asked("blob")] == [200]


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_download_goes_on_with_the_token_of_a_client_that_has_joined(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image, *, breaks: bool
) -> None:
    [layer] = app.layers
    old = await token(upstream, "anna", "secret")
    await personal.client.get("/v2/org/app/manifests/1", headers=old)
    target, gate = f"/v2/org/app/blobs/{layer}", upstream.hold(layer, after=50_000)
    async with asyncio.TaskGroup() as clients:
        pulls = [clients.create_task(personal.client.get(target, headers=old))]
        await gate.reached()
        assert isinstance(upstream.auth, BearerAuth)
        upstream.auth.revoke()
        new = await token(upstream, "anna", "secret")
        pulls.append(clients.create_task(personal.client.get(target, headers=new)))
        await personal.until_metric("mirror_fill_readers", 2)
        if breaks:
            gate.cut()
        else:
            gate.open()
    assert [pull.result().body == app.blobs[layer] for pull in pulls] == [True, True]
    answers = upstream.asked("blob", reference=layer, method="GET")
    assert sum(asked.sent for asked in answers if asked.status < 300) == SIZE
    assert {asked.status for asked in answers} == ({200, 401, 206} if breaks else {200})


async def test_a_grant_ends_and_upstream_is_asked_again(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image, clock: FakeClock
) -> None:
    anna = await token(upstream, "anna", "secret")
    target = f"/v2/org/app/manifests/{app.digest}"
    await personal.client.get(target, headers=anna)
    upstream.forget()
    clock.advance(61)  # an opaque token is believed for a minute
    assert (await personal.client.get(target, headers=anna)).status == 200
    assert upstream.questions() == [("manifest", "HEAD", app.digest)]
    assert isinstance(upstream.auth, BearerAuth)
    upstream.auth.revoke()
    assert (await personal.client.get(target, headers=anna)).status == 200  # still believed
    clock.advance(61)
    assert (await personal.client.get(target, headers=anna)).status == 401


async def test_a_granted_client_is_served_through_an_outage_and_a_stranger_is_not(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image
) -> None:
    anna, bert = await token(upstream, "anna", "secret"), await token(upstream, "bert", "hidden")
    await personal.client.get("/v2/org/app/manifests/1", headers=anna)
    await upstream.stop()
    assert (await personal.client.get("/v2/org/app/manifests/1", headers=anna)).status == 200
    answer = await personal.client.get("/v2/org/app/manifests/1", headers=bert)
    assert answer.status == 502
    assert app.manifest not in answer.body


async def test_what_is_missing_is_missing_for_who_is_let_in(
    upstream: ScriptedRegistry, personal: InnerMirror
) -> None:
    anna, bert = await token(upstream, "anna", "secret"), await token(upstream, "bert", "hidden")
    assert (await personal.client.get("/v2/org/app/manifests/9", headers=anna)).status == 404
    assert (await personal.client.get("/v2/org/app/manifests/9", headers=bert)).status == 401


async def test_an_authorization_that_no_registry_could_be_sent_harms_nobody(
    upstream: ScriptedRegistry, personal: InnerMirror, app: Image
) -> None:
    """If it were tried, upstream would look broken, and be left alone for everybody."""
    host, _, port = personal.host.partition(":")
    for _ in range(4):
        request = (
            b"GET /v2/org/app/manifests/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer \xff\r\n\r\n"
        )
        assert (await raw_request(host, int(port), request)).startswith(b"HTTP/1.1 403")
    assert upstream.requests == []
    assert await personal.metric("mirror_upstream_up") == 1
    anna = await token(upstream, "anna", "secret")
    assert (await personal.client.get("/v2/org/app/manifests/1", headers=anna)).status == 200


async def test_where_the_mirror_decides_a_clients_authorization_goes_nowhere(
    upstream: ScriptedRegistry, start_mirror: StartMirror, app: Image
) -> None:
    mirror = await start_mirror()
    await mirror.client.get("/v2/org/app/manifests/1", headers=basic("anna", "secret"))
    await mirror.client.get(f"/v2/org/app/blobs/{app.layers[0]}", headers={"Cookie": "a=b"})
    for asked in upstream.requests:
        assert "Authorization" not in asked.headers
        assert "Cookie" not in asked.headers
