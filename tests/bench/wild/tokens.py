"""How registries ask who is there, and say that they do not believe it."""

import asyncio
import time
from typing import Any

from tests.bench.wild.kinds import kind
from tests.bench.wild.registries import AT_ONCE, an_image
from tests.bench.wild.seat import Scene, Seat
from tests.support.auth import BasicAuth, BearerAuth
from tests.support.images import Image
from tests.support.named import NamedRegistry
from tests.support.upstream import ScriptedRegistry
from tests.support.ways import DOCKER_HARDENED, ECR, ECR_PUBLIC, Ways


async def _named(scene: Scene, ways: Ways, seed: int) -> tuple[NamedRegistry, Image]:
    clock = time.time  # noqa: TID251 - the mirror is a process of its own
    registry: NamedRegistry = await scene.enter(NamedRegistry(ways, clock=clock))
    return registry, registry.add(an_image(seed), "library/app", "1")


def _password(scene: Scene, user: str, secret: str) -> dict[str, Any]:
    file = scene.directory / "password"
    file.write_text(secret + "\n", encoding="utf-8")
    return {"username": user, "password_file": str(file)}


async def _layers(seat: Seat, held: Image) -> None:
    for digest, content in held.blobs.items():
        await seat.blob("library/app", digest, content)


@kind("a token's time is over, which ECR Public says by 400 (containers-roadmap#2835): layers come")
async def token_is_over_400(scene: Scene) -> None:
    registry, held = await _named(scene, ECR_PUBLIC, 100)
    seat = await scene.seat(registry.url)
    await seat.manifest("library/app", "1", held.manifest)
    registry.expire()
    await _layers(seat, held)


@kind("... which dhi.io says by a 401 without a challenge (hub-feedback#2530): layers come")
async def token_is_over_bare_401(scene: Scene) -> None:
    ways = DOCKER_HARDENED
    registry, held = await _named(scene, ways, 101)
    seat = await scene.seat(registry.url, endpoint=_password(scene, ways.user, ways.proof))
    await seat.manifest("library/app", "1", held.manifest)
    registry.expire()
    await _layers(seat, held)


@kind("a password's twelve hours are over, which ECR says by 403 (flipt#3043): the next is used")
async def password_is_over_403(scene: Scene) -> None:
    registry, held = await _named(scene, ECR, 102)
    seat = await scene.seat(registry.url, endpoint=_password(scene, ECR.user, ECR.proof))
    await seat.manifest("library/app", "1", held.manifest)
    assert isinstance(registry.auth, BasicAuth)
    registry.auth.users = {ECR.user: "the next"}
    await seat.client.blob("library/app", held.config)
    _password(scene, ECR.user, "the next")
    await _in_time(seat, held)


@kind("a wrong password is put right (nexus-public#639): the image comes without a restart")
async def password_put_right(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(103), "library/app", "1")
    registry.auth = BearerAuth(users={"me": "right"}, anonymous=False)
    registry.auth.realm = f"{registry.url}/token"
    seat = await scene.seat(registry.url, endpoint=_password(scene, "me", "wrong"))
    await seat.client.manifest("library/app", "1")
    _password(scene, "me", "right")
    await _in_time(seat, held)


async def _in_time(seat: Seat, held: Image) -> None:
    """The image comes within what a person waits."""
    for _ in range(60):
        if (await seat.client.blob("library/app", held.config)).status == 200:
            break
        await asyncio.sleep(0.5)
    await seat.manifest("library/app", held.digest, held.manifest)
    await _layers(seat, held)


async def _closed(scene: Scene, seed: int, secret: str) -> tuple[ScriptedRegistry, Image]:
    registry = await scene.registry()
    held = registry.add(an_image(seed), "library/app", "1")
    registry.auth = BearerAuth(users={"me": secret}, anonymous=False)
    registry.auth.realm = f"{registry.url}/token"
    return registry, held


@kind("a password of colons, quotes and umlauts (distribution#3457): the image comes")
async def odd_password(scene: Scene) -> None:
    odd = 'a:b"c%2F\\d é$&+='
    registry, held = await _closed(scene, 104, odd)
    seat = await scene.seat(registry.url, endpoint=_password(scene, "me", odd))
    await seat.manifest("library/app", "1", held.manifest)
    await _layers(seat, held)


@kind("the challenge at /v2/ names a scope that is nobody's (GHCR: user/image): the image comes")
async def placeholder_scope(scene: Scene) -> None:
    registry, held = await _closed(scene, 105, "secret")
    auth = registry.auth
    assert isinstance(auth, BearerAuth)
    told = (
        f'Bearer realm="{auth.realm}",service="{auth.service}",scope="repository:user/image:pull"'
    )
    registry.fault(kind="ping", headers={"WWW-Authenticate": told})
    # "403 DENIED for combined scopes, and only accepts single :pull" (serverless-registry#149)
    registry.fault(
        kind="token", status=403, where=lambda asked: "push" in asked.query or "user" in asked.query
    )
    seat = await scene.seat(registry.url, endpoint=_password(scene, "me", "secret"))
    await seat.manifest("library/app", "1", held.manifest)
    await _layers(seat, held)


@kind("a 401 offers tokens and passwords at once, in two fields (Gitea): the image comes")
async def two_challenges(scene: Scene) -> None:
    registry, held = await _closed(scene, 106, "secret")
    auth = registry.auth
    assert isinstance(auth, BearerAuth)
    both = f'Basic realm="Gitea", Bearer realm="{auth.realm}",service="{auth.service}",scope="*"'
    registry.fault(
        where=lambda asked: asked.kind != "token" and "Authorization" not in asked.headers,
        headers={"WWW-Authenticate": both},
    )
    seat = await scene.seat(registry.url, endpoint=_password(scene, "me", "secret"))
    await seat.manifest("library/app", "1", held.manifest)
    await _layers(seat, held)


@kind("a registry denies one image to the mirror's account: all others come")
async def one_denial(scene: Scene) -> None:
    registry, held = await _closed(scene, 107, "secret")
    registry.add(an_image(108), "library/other", "1")
    registry.fault(repository="library/other", status=403)
    seat = await scene.seat(registry.url, endpoint=_password(scene, "me", "secret"), tags=AT_ONCE)
    for _ in range(4):
        assert (await seat.client.manifest("library/other", "1")).status in {401, 403, 404}
    await seat.manifest("library/app", "1", held.manifest)
    await _layers(seat, held)
