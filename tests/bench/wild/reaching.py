"""How registries are reached: below a path, by way of a proxy, as whom, and when they are not."""

import asyncio

from aiohttp import web

from tests.bench.wild.kinds import kind
from tests.bench.wild.registries import an_image
from tests.bench.wild.seat import Scene
from tests.support.auth import BearerAuth
from tests.support.evil import Ask, says, tells
from tests.support.relay import Relay


@kind("Harbor's proxy project, ECR's pull-through rule, GitLab: the registry lies below a path")
async def below_a_path(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(70), "hub-proxy/library/app", "1")
    registry.auth = BearerAuth(anonymous=True)
    registry.auth.realm = f"{registry.url}/token"
    seat = await scene.seat(registry.url, endpoint={"prefix": "hub-proxy"})
    await seat.manifest("library/app", "1", held.manifest)
    for digest, content in held.blobs.items():
        await seat.blob("library/app", digest, content)


@kind("the registry is reached by way of a proxy only: the image comes")
async def by_way_of_a_proxy(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(71), "library/app", "1")
    evil = await scene.evil()

    async def forward(ask: Ask) -> None:
        path = ask.line.partition(" ")[2].removeprefix("http://registry.invalid")
        if path == f"/v2/library/app/blobs/{held.layers[0]}":
            await tells(held.blobs[held.layers[0]])(ask)
        elif "/manifests/" in path:
            typed = f"Content-Type: {held.media_type}".encode()
            await tells(held.manifest, typed)(ask)
        else:
            await tells(b"{}")(ask)

    evil.on("http://registry.invalid/", forward)
    seat = await scene.seat("http://registry.invalid", endpoint={"proxy": evil.url})
    await seat.manifest("library/app", "1", held.manifest)
    await seat.blob("library/app", held.layers[0], held.blobs[held.layers[0]])


@kind("a token server takes POST only (OAuth2): a private image comes")
async def tokens_by_post(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(72), "library/app", "1")
    registry.auth = BearerAuth(users={"me": "secret"}, private={"library/app": {"me"}})
    tokens = registry.auth

    async def issue(request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response(status=405)
        form = await request.post()
        if (form.get("username"), form.get("password")) != ("me", "secret"):
            return web.Response(status=401)
        scope = "repository:library/app:pull"
        tokens._grants["by-post"] = (float("inf"), "me", {scope})  # noqa: SLF001 - ours, for this
        return web.json_response({"access_token": "by-post", "expires_in": 300})

    server = web.Application()
    server.router.add_route("*", "/token", issue)
    runner = web.AppRunner(server)
    await runner.setup()
    scene.defer(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    tokens.realm = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    password = scene.directory / "password"
    password.write_text("secret\n", encoding="utf-8")
    seat = await scene.seat(
        registry.url, endpoint={"username": "me", "password_file": str(password)}
    )
    await seat.manifest("library/app", "1", held.manifest)


@kind("a vanity domain redirects to a registry that wants a token: the image comes")
async def vanity_domain(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(73), "library/app", "1")
    registry.auth = BearerAuth()
    registry.auth.realm = f"{registry.url}/token"
    evil = await scene.evil()

    async def lead_on(ask: Ask) -> None:
        location = f"Location: {registry.url}{ask.line.partition(' ')[2]}".encode()
        await says(b"HTTP/1.1 307 Temporary Redirect", location, b"Content-Length: 0")(ask)

    evil.on("/v2/library/", lead_on)
    seat = await scene.seat(evil.url)
    await seat.manifest("library/app", "1", held.manifest)
    for digest, content in held.blobs.items():
        await seat.blob("library/app", digest, content)


@kind("the registry cannot be reached, an accelerator of it can: tags come from there, marked")
async def tags_of_an_accelerator(scene: Scene) -> None:
    accelerator = await scene.registry()
    held = accelerator.add(an_image(74), "library/app", "1")
    away = await scene.registry()
    await away.stop()
    endpoints = [{"url": away.url}, {"url": accelerator.url, "tags": "fallback"}]
    seat = await scene.seat(away.url, upstream={"endpoints": endpoints})
    answer = await seat.manifest("library/app", "1", held.manifest)
    assert "fallback" in answer.headers.get("Cache-Status", ""), "not marked"


@kind("a registry's node is replaced, and eight kept connections lead nowhere: all pulls succeed")
async def node_is_replaced(scene: Scene) -> None:
    registry = await scene.registry()
    images = [registry.add(an_image(80 + n), f"library/app-{n}", "1") for n in range(30)]
    relay = await scene.enter(Relay(registry.port))
    seat = await scene.seat(relay.url)
    gates = [registry.hold("1", after=None)]
    pulls = [seat.manifest(f"library/app-{n}", "1", images[n].manifest) for n in range(8)]
    together = asyncio.gather(*pulls)
    await registry.was_asked("tag", count=8)
    gates[0].open()
    await together
    relay.silence()
    for number in range(8, 30):
        await seat.manifest(f"library/app-{number}", "1", images[number].manifest)
