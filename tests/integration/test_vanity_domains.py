"""Hosts that redirect `/v2/…` to another registry, which wants a token of its own.

Vanity domains do (docker.example.com to ghcr.io), and registry.k8s.io, to Artifact Registry.
"""

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from mirror.aio.slots import Urgency
from mirror.oci.digest import digest_of
from mirror.oci.errors import Denied, Missing
from mirror.oci.reference import Repository, Tag
from mirror.oci.request import Page
from mirror.sources.registry.endpoint import Scope
from tests.support.auth import BearerAuth
from tests.support.clock import FakeClock
from tests.support.edge import registry_at
from tests.support.evil import Ask, Evil, redirects, says
from tests.support.images import image, random_layer
from tests.support.upstream import Cdn, ScriptedRegistry

APP = image(random_layer(50_000, seed=5))
[LAYER] = APP.layers
BLOB = digest_of(APP.blobs[LAYER])
SCOPE = Scope(Repository("hub", "app"))


@pytest.fixture
async def app(upstream: ScriptedRegistry) -> ScriptedRegistry:
    upstream.add(APP, "real/org/app", "1")
    upstream.auth = BearerAuth(realm=f"{upstream.url}/token", service="real")
    return upstream


def _leads_to(upstream: ScriptedRegistry, vanity: Evil, *, password: str = "") -> None:
    """Redirect `/v2/app/…` to `/v2/real/org/app/…` there; with a password, only who has it."""

    async def behave(ask: Ask) -> None:
        if password and f"Authorization: Basic {password}" not in ask.head:
            challenge = b'WWW-Authenticate: Basic realm="vanity"'
            await says(b"HTTP/1.1 401 Who", challenge, b"Content-Length: 0")(ask)
            return
        path = ask.line.split(" ")[1].removeprefix("/v2/")
        await redirects(f"{upstream.url}/v2/real/org/{path}")(ask)

    vanity.on("/v2/app/", behave)


async def test_the_challenge_of_the_registry_that_was_redirected_to_is_answered_there(
    app: ScriptedRegistry, clock: FakeClock
) -> None:
    app.cdn = Cdn()
    async with Evil() as vanity, registry_at(vanity.url, clock) as registry:
        _leads_to(app, vanity)
        manifest = (await registry.get_manifest(SCOPE, Tag("1"))).manifest
        assert manifest.content == APP.manifest
        assert await registry.head_blob(SCOPE, BLOB) == 50_000
        blobs = registry.blobs(SCOPE)
        async with blobs.open_blob(BLOB, 0, None, avoid=None, urgency=Urgency()) as body:
            assert b"".join([bytes(it) async for it in body.chunks]) == APP.blobs[LAYER]
        assert json.loads((await registry.list_tags(SCOPE, Page())).content) == ["1"]
    [token] = app.asked("token")  # one for all of them
    assert parse_qs(token.query)["scope"] == ["repository:real/org/app:pull"]
    assert not any("Authorization:" in head for head in vanity.heads)


async def test_credentials_for_the_first_do_not_go_to_the_second(
    app: ScriptedRegistry, clock: FakeClock, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("secret", encoding="utf-8")
    basic = base64.b64encode(b"joe:secret").decode()
    settings: dict[str, Any] = {"username": "joe", "password_file": str(password)}
    async with Evil() as vanity:
        _leads_to(app, vanity, password=basic)
        async with registry_at(vanity.url, clock, **settings) as registry:
            manifest = (await registry.get_manifest(SCOPE, Tag("1"))).manifest
            assert manifest.content == APP.manifest
    sent = [asked.headers.get("Authorization", "") for asked in app.requests]
    assert not any("Basic" in each for each in sent)
    assert not any("Bearer" in head for head in vanity.heads)


async def test_what_that_registry_says_is_a_registrys_word(
    app: ScriptedRegistry, clock: FakeClock
) -> None:
    async with Evil() as vanity, registry_at(vanity.url, clock) as registry:
        _leads_to(app, vanity)
        with pytest.raises(Missing):
            await registry.get_manifest(SCOPE, Tag("2"))
        assert isinstance(app.auth, BearerAuth)
        app.auth.private = {"real/org/app": {"joe"}}
        with pytest.raises(Denied):
            await registry.get_manifest(SCOPE, Tag("1"))


async def test_challenges_without_end_are_answered_twice(clock: FakeClock) -> None:
    async with Evil() as evil, Evil() as other, registry_at(evil.url, clock) as registry:
        for one, next_one in ((evil, other), (other, evil)):
            realm = f'WWW-Authenticate: Bearer realm="{one.url}/token"'.encode()
            one.on("/v2/", says(b"HTTP/1.1 401 Who", realm, b"Content-Length: 0"))
            one.on("/token", says(b"HTTP/1.1 200 OK", b"Content-Length: 13", body=b'{"token":"x"}'))
            one.on("/v2/app/tags", redirects(f"{next_one.url}/v2/app/manifests/1"))
        with pytest.raises(Denied):
            await registry.get_manifest(SCOPE, Tag("1"))
        assert len(evil.asked) + len(other.asked) < 10


async def test_storage_that_wants_a_token_is_no_registry(
    app: ScriptedRegistry, clock: FakeClock
) -> None:
    async with Evil() as vanity, registry_at(vanity.url, clock) as registry:
        vanity.on("/v2/app/", redirects(f"{app.url}/v2/real/org/app/manifests/other"))
        with pytest.raises(Exception, match="storage that upstream redirects to answered 401"):
            await registry.get_manifest(SCOPE, Tag("1"))
    assert not app.asked("token")
