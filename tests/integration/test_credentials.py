"""How the mirror convinces token servers: by GET, by OAuth2's POST, and with a helper's word."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from aiohttp import web

from mirror.oci.digest import digest_of
from mirror.oci.errors import Denied
from mirror.oci.reference import Repository
from mirror.sources.registry.endpoint import Scope
from tests.conftest import StartMirror
from tests.support.auth import BasicAuth, BearerAuth
from tests.support.client import get
from tests.support.clock import FakeClock
from tests.support.edge import registry_at
from tests.support.faults import Asked
from tests.support.images import image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry

LAYER = b"layer"
BLOB = digest_of(LAYER)
APP = Scope(Repository("hub", "team/app"))


@asynccontextmanager
async def oauth_registry(asked: list[Mapping[str, str]], get: int) -> AsyncIterator[str]:
    """A registry whose token server answers `get` to GET, and takes OAuth2's POST."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/token":
            if request.method == "GET":
                return web.Response(status=get)
            form = dict(parse_qsl(await request.text()))
            asked.append(form)
            is_known = "secret" in {form.get("password"), form.get("refresh_token")}
            if not is_known:
                return web.Response(status=401)
            return web.Response(body=json.dumps({"access_token": "good"}))
        if request.headers.get("Authorization") == "Bearer good":
            return web.Response(body=LAYER)
        challenge = f'Bearer realm="http://{request.host}/token",service="a:b"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("secret\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("status", [400, 404, 405, 501])
async def test_a_token_server_that_takes_post_only_is_sent_the_password_by_post(
    clock: FakeClock, password: Path, status: int
) -> None:
    asked: list[Mapping[str, str]] = []
    async with (
        oauth_registry(asked, status) as url,
        registry_at(url, clock, username="joe", password_file=str(password)) as registry,
    ):
        assert await registry.head_blob(APP, BLOB) == len(LAYER)
    [form] = asked
    assert form == {
        "grant_type": "password",
        "username": "joe",
        "password": "secret",
        "client_id": "mirror",
        "service": "a:b",
        "scope": "repository:team/app:pull",
    }


async def test_an_identity_token_of_docker_login_is_exchanged_by_post(
    clock: FakeClock, password: Path
) -> None:
    asked: list[Mapping[str, str]] = []
    async with (
        oauth_registry(asked, 200) as url,
        registry_at(url, clock, username="<token>", password_file=str(password)) as registry,
    ):
        assert await registry.head_blob(APP, BLOB) == len(LAYER)
    [form] = asked
    assert (form["grant_type"], form["refresh_token"]) == ("refresh_token", "secret")


async def test_an_identity_token_is_never_sent_as_a_password(
    upstream: ScriptedRegistry, clock: FakeClock, password: Path
) -> None:
    upstream.auth = BasicAuth(users={"<token>": "secret"})
    async with registry_at(
        upstream.url, clock, username="<token>", password_file=str(password)
    ) as registry:
        with pytest.raises(Denied):
            await registry.head_blob(APP, BLOB)
    assert not [asked for asked in upstream.requests if "Authorization" in asked.headers]


def _helper(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = directory / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def _shows(pair: str) -> Callable[[Asked], bool]:
    basic = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return lambda asked: asked.headers.get("Authorization") == basic


@pytest.mark.parametrize("refused_by", [401, 403])
@pytest.mark.parametrize("user", ["AWS", "_json_key", "oauth2accesstoken"])
async def test_a_credential_helper_as_of_ecr_and_gcr_is_asked_once_and_again_when_refused(
    upstream: ScriptedRegistry,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    user: str,
    refused_by: int,
) -> None:
    log, secret = tmp_path / "log", tmp_path / "now"
    secret.write_text("one", encoding="utf-8")
    answer = f'{{"Username": "{user}", "Secret": "' + "'$(cat " + f"{secret}" + ")'" + '"}'
    _helper(tmp_path, f"cat >> {log}\necho '{answer}'", monkeypatch)
    upstream.add_blob(LAYER, "team/app")
    upstream.auth = BasicAuth(users={user: "one"})
    async with registry_at(upstream.url, clock, credential_helper="test") as registry:
        for _ in range(2):
            assert await registry.head_blob(APP, BLOB) == len(LAYER)
        secret.write_text("two", encoding="utf-8")
        upstream.auth = BasicAuth(users={user: "two"})
        if refused_by == 403:
            upstream.fault(where=_shows(f"{user}:one"), status=403)
        assert await registry.head_blob(APP, BLOB) == len(LAYER)
    assert log.read_text(encoding="utf-8").split() == [upstream.host] * 2


async def test_a_credential_helper_is_asked_once_however_many_want_it_at_once(
    upstream: ScriptedRegistry, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    answer = '{"Username": "joe", "Secret": "one"}'
    _helper(tmp_path, f"cat >> {log}\nsleep 0.2\necho '{answer}'", monkeypatch)
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", users={"joe": "one"})
    names = [Repository("hub", f"team/app-{number}") for number in range(10)]
    for name in names:
        upstream.add_blob(LAYER, name.name)
    async with registry_at(upstream.url, clock, credential_helper="test") as registry:
        asking = [registry.head_blob(Scope(name), BLOB) for name in names]
        assert await asyncio.gather(*asking) == [len(LAYER)] * len(names)
    assert log.read_text(encoding="utf-8").split() == [upstream.host]


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "echo '{}'"])
async def test_a_credential_helper_in_trouble_is_a_denial_and_no_outage(
    upstream: ScriptedRegistry,
    clock: FakeClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
) -> None:
    _helper(tmp_path, script, monkeypatch)
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    async with registry_at(upstream.url, clock, credential_helper="test") as registry:
        with pytest.raises(Denied):
            await registry.head_blob(APP, BLOB)
        assert registry.tells_tags(APP.repository.name)


async def test_a_wrong_password_is_denied_counted_and_never_a_404(
    upstream: ScriptedRegistry, start_mirror: StartMirror, password: Path
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", users={"joe": "other"})
    settings = upstream_at(upstream.url, username="joe", password_file=str(password))
    mirror = await start_mirror({"docker.io": settings})
    for _ in range(3):
        answer = await mirror.client.get("/v2/team/app/manifests/1", headers={})
        assert answer.status == 403
    assert await mirror.metric("mirror_upstream_credential_failures_total") == 1
    assert len(upstream.asked("token")) == 1


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
async def test_status_and_a_metric_tell_that_a_password_is_wrong_until_another_is_there(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    clock: FakeClock,
    password: Path,
    *,
    scheme: str,
) -> None:
    app = upstream.add(image(random_layer(100, seed=1)), "team/app", "1")
    users = {"joe": "renewed"}
    upstream.auth = (
        BasicAuth(users=users) if scheme == "basic"
        else BearerAuth(realm=f"{upstream.url}/token", users=users, anonymous=False)
    )  # fmt: skip
    settings = upstream_at(upstream.url, username="joe", password_file=str(password))
    mirror = await start_mirror({"docker.io": settings})
    refused = "mirror_upstream_credentials_refused"
    assert await problems(mirror) == []
    assert await mirror.metric(refused) == 0
    assert (await mirror.client.manifest("team/app", "1")).status == 403
    assert await mirror.metric(refused) == 1
    (problem,) = await problems(mirror)
    assert problem["what"] == f"{upstream.url} (docker.io) does not let the mirror in"
    assert "password_file" in problem["why"]
    await asyncio.to_thread(password.write_text, "renewed\n", encoding="utf-8")
    clock.advance(60)

    async def is_let_in() -> bool:
        return (await mirror.client.manifest("team/app", "1")).digest == app.digest

    await until(is_let_in)
    assert await problems(mirror) == []
    assert await mirror.metric(refused) == 0


async def problems(mirror: InnerMirror) -> list[dict[str, str]]:
    """What `/status` says is wrong."""
    found: list[dict[str, str]] = json.loads((await get(f"{mirror.admin_url}/status")).body)[
        "problems"
    ]
    return found


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error": "invalid_grant", "error_description": "over"}'),  # RFC 6749, 5.2
        (400, b'{"error": "invalid_client"}'),
        (401, b""),
        (403, b'{"errors": [{"code": "DENIED"}]}'),
    ],
)
@pytest.mark.parametrize("user", ["joe", "<token>"])
async def test_whatever_a_token_server_says_of_a_wrong_secret_it_is_told_as_one(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    password: Path,
    *,
    status: int,
    body: bytes,
    user: str,
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token")
    upstream.fault(kind="token", status=status, body=body)
    settings = upstream_at(upstream.url, username=user, password_file=str(password))
    mirror = await start_mirror({"docker.io": settings})
    answer = await mirror.client.get("/v2/team/app/manifests/1")
    assert answer.status == 403
    assert await mirror.metric("mirror_upstream_credential_failures_total") == 1


async def test_a_token_server_that_denies_one_repository_says_nothing_of_the_password(
    upstream: ScriptedRegistry, start_mirror: StartMirror, password: Path
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", users={"joe": "secret"})
    upstream.fault(kind="token", where=lambda asked: "private" in asked.query, status=403)
    settings = upstream_at(upstream.url, username="joe", password_file=str(password))
    mirror = await start_mirror({"docker.io": settings})
    assert (await mirror.client.get("/v2/team/private/manifests/1")).status == 403
    assert await mirror.metric("mirror_upstream_credential_failures_total") == 0


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_password_that_is_refused_for_one_repository_alone_is_not_a_wrong_one(
    upstream: ScriptedRegistry, start_mirror: StartMirror, password: Path, *, is_open: bool
) -> None:
    upstream.auth = BasicAuth(users={"joe": "secret"})
    upstream.fault(repository="team/private", status=401, headers={"WWW-Authenticate": "Basic"})
    if is_open:  # then `/v2/` tells nothing of passwords
        upstream.fault(kind="ping", body=b"{}")
        upstream.auth = None
    settings = upstream_at(upstream.url, username="joe", password_file=str(password))
    mirror = await start_mirror({"docker.io": settings})
    assert (await mirror.client.get("/v2/team/private/manifests/1")).status == 403
    assert await mirror.metric("mirror_upstream_credential_failures_total") == int(is_open)


async def test_one_pull_of_a_private_image_of_docker_hub_asks_once_for_each_thing(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", private={"team/app": {"joe"}})
    mirror = await start_mirror()
    for _ in range(9):
        for target in ("manifests/1", f"blobs/{BLOB}"):
            assert (await mirror.client.get(f"/v2/team/app/{target}")).status == 403
    assert len(upstream.asked("tag")) <= 2
    assert len(upstream.asked("blob")) <= 2
