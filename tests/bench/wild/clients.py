"""What clients do, and what their users want of them."""

import asyncio
import base64
import json
import re

from tests.bench.wild.kinds import kind
from tests.bench.wild.registries import an_image
from tests.bench.wild.seat import Scene, Seat
from tests.support.auth import BearerAuth
from tests.support.client import MANIFEST_TYPES, get
from tests.support.images import Image
from tests.support.upstream import Cdn, RateLimit

_MIB = 2**20
_PODMAN = {"User-Agent": "containers/5.34.0 (github.com/containers/image)"}


async def _with_image(scene: Scene, seed: int) -> tuple[Seat, Image]:
    registry = await scene.registry()
    held = registry.add(an_image(seed), "library/app", "1")
    return await scene.seat(registry.url), held


def _request(line: str, *fields: str) -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", *fields, "", "")).encode()


def _is_ok(answer: bytes, body: bytes) -> None:
    status = answer.split(b"\r\n", 1)[0].decode(errors="replace")
    assert " 200 " in f"{status} ", status or "no answer"
    assert answer.endswith(body), "another body"


@kind("a client sends an Authorization of 16 KiB: it is answered")
async def long_authorization(scene: Scene) -> None:
    seat, held = await _with_image(scene, 50)
    token = f"Authorization: Bearer {'t' * 16_000}"
    line = "GET /v2/library/app/manifests/1"
    answer = await seat.raw(_request(line, "Host: mirror", token, "Connection: close"))
    _is_ok(answer, held.manifest)


@kind("a client writes a digest's colon as %3A: it is answered")
async def escaped_colon(scene: Scene) -> None:
    seat, held = await _with_image(scene, 51)
    digest = held.layers[0].replace(":", "%3A")
    line = f"GET /v2/library/app/blobs/{digest}"
    answer = await seat.raw(_request(line, "Host: mirror", "Connection: close"))
    _is_ok(answer, held.blobs[held.layers[0]])


@kind("a client closes its side after the request: it is answered")
async def half_closed(scene: Scene) -> None:
    seat, held = await _with_image(scene, 52)
    reader, writer = await asyncio.open_connection("127.0.0.1", seat.port)
    line = f"GET /v2/library/app/blobs/{held.layers[0]}"
    writer.write(_request(line, "Host: mirror", "Connection: close"))
    writer.write_eof()
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    _is_ok(answer, held.blobs[held.layers[0]])


@kind("a client asks in absolute form, as by way of a proxy: it is answered")
async def absolute_form(scene: Scene) -> None:
    seat, held = await _with_image(scene, 53)
    line = f"GET http://mirror/v2/library/app/blobs/{held.layers[0]}"
    answer = await seat.raw(_request(line, "Host: mirror", "Connection: close"))
    _is_ok(answer, held.blobs[held.layers[0]])


@kind("a proxy in between writes another Host than the absolute form's: it is answered")
async def absolute_form_elsewhere(scene: Scene) -> None:
    seat, held = await _with_image(scene, 59)
    line = f"GET http://mirror/v2/library/app/blobs/{held.layers[0]}"
    answer = await seat.raw(_request(line, "Host: proxy.example", "Connection: close"))
    _is_ok(answer, held.blobs[held.layers[0]])


@kind("podman asks for several ranges at once (zstd:chunked): it gets them")
async def several_ranges(scene: Scene) -> None:
    seat, held = await _with_image(scene, 54)
    digest = held.layers[0]
    content = held.blobs[digest]
    await seat.blob("library/app", digest, content)
    answer = await seat.client.get(
        f"/v2/library/app/blobs/{digest}", headers={"Range": "bytes=0-9,100-119,2000-2001"}
    )
    assert answer.status == 206, f"{answer.status} for ranges"
    kind_told = answer.headers.get("Content-Type", "")
    assert kind_told.startswith("multipart/byteranges"), f"as {kind_told}"
    for start, stop in ((0, 10), (100, 120), (2000, 2002)):
        assert content[start:stop] in answer.body, "a range is missing"


@kind("an image of a registry that is not configured: no other registry learns its name")
async def unknown_registry(scene: Scene) -> None:
    registry = await scene.registry()
    seat = await scene.seat(registry.url)
    answer = await seat.client.manifest("private.example:5000/team/app", "1")
    second = await seat.client.manifest("ghcr.io/team/app", "1")
    assert {answer.status, second.status} == {404}, f"{answer.status}, {second.status}"
    told = [asked.target for asked in registry.requests if "team" in asked.target]
    assert not told, f"upstream was asked for {told[0]}"


@kind("podman, which falls back by image only: 404 for a manifest whose layers cannot be had")
async def half_an_image(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(55), "library/app", "1")
    seat = await scene.seat(registry.url, tags={"fresh_for": "0s"})
    await seat.manifest("library/app", "1", held.manifest)  # its layers nobody has asked for
    await asyncio.sleep(0.5)
    await registry.stop()
    await asyncio.sleep(0.7)
    answer = await seat.client.get("/v2/library/app/manifests/1", headers=_PODMAN)
    if answer.status == 200:  # then everything must be there
        for digest, content in held.blobs.items():
            await seat.blob("library/app", digest, content)
    else:
        assert answer.status == 404, f"{answer.status}, on which podman gives up"


@kind("a layer larger than the whole cache, asked for by ranges: upstream sends it once, not 20 x")
async def too_large_to_keep(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(56, size=24 * _MIB), "library/app", "1")
    seat = await scene.seat(registry.url, store={"max_size": "8 MiB"})
    await seat.manifest("library/app", "1", held.manifest)
    digest = held.layers[0]
    content = held.blobs[digest]
    for start in range(0, 24 * _MIB, 2 * _MIB):
        wanted = {"Range": f"bytes={start}-{start + 2 * _MIB - 1}"}
        answer = await seat.client.get(f"/v2/library/app/blobs/{digest}", headers=wanted)
        assert answer.body[-100:] == content[: start + 2 * _MIB][-100:], "other bytes"
    times = registry.bytes_sent(digest) / (24 * _MIB)
    assert times < 2, f"upstream sent it {times:.1f} times"


@kind("docker login of a private registry by way of it: a wrong password fails")
async def wrong_password(scene: Scene) -> None:
    registry = await scene.registry()
    registry.auth = BearerAuth(users={"me": "secret"}, anonymous=False)
    registry.auth.realm = f"{registry.url}/token"
    seat = await scene.seat(
        registry.url, upstream={"access": "client", "hosts": ["private.mirror.example"]}
    )
    request = _request("GET /v2/", "Host: private.mirror.example", "Connection: close")
    answer = (await seat.raw(request)).decode(errors="replace")
    assert " 401 " in answer.partition("\r\n")[0] + " ", "whoever logs in is told: Succeeded"
    assert re.search(r"(?i)www-authenticate: bearer", answer), "no challenge"


@kind("clients cannot reach a private registry's token server: they get tokens by way of it")
async def token_server_out_of_reach(scene: Scene) -> None:
    registry = await scene.registry()
    registry.auth = BearerAuth(users={"me": "secret"}, anonymous=False)
    registry.auth.realm = f"{registry.url}/token"
    settings = {"access": "client", "hosts": ["private.mirror.example"], "relay_tokens": "http"}
    seat = await scene.seat(registry.url, upstream=settings)
    host = f"private.mirror.example:{seat.port}"
    challenge = (await seat.client.get("/v2/", headers={"Host": host})).headers["WWW-Authenticate"]
    realm = re.search(r'realm="http://([^/]*)(/[^"]*)"', challenge)
    assert realm is not None, "no token server is named"
    assert realm[1] == host, "sent to where clients cannot go"
    user = {"Authorization": "Basic " + base64.b64encode(b"me:secret").decode()}
    answer = await seat.client.get(f"{realm[2]}?service=registry.test", headers=user)
    assert answer.status == 200, f"{answer.status} for a token"
    token = {"Host": host, "Authorization": f"Bearer {json.loads(answer.body)['token']}"}
    assert (await seat.client.get("/v2/", headers=token)).status == 200, "the token is of no use"


@kind("containerd asks with ns= and a path of the registry's name together: it is answered")
async def named_twice(scene: Scene) -> None:
    seat, held = await _with_image(scene, 57)
    target = "/v2/docker.io/library/app/manifests/1?ns=docker.io"
    answer = await seat.client.get(target)
    assert answer.status == 200, f"{answer.status} for it"
    assert answer.body == held.manifest, "another manifest"


@kind("the storage's link has ended by the time it is followed: the layer comes by a new one")
async def link_has_ended(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(58), "library/app", "1")
    registry.cdn = Cdn()
    registry.fault(kind="cdn", status=403, times=1)
    seat = await scene.seat(registry.url)
    await seat.manifest("library/app", "1", held.manifest)
    await seat.blob("library/app", held.layers[0], held.blobs[held.layers[0]])


@kind("upstream limits manifests, and Buildah asks: it is sent to the registry, and does not sleep")
async def buildah_is_limited(scene: Scene) -> None:
    registry = await scene.registry()
    registry.add(an_image(60), "library/app", "1")
    registry.rate_limit = RateLimit(remaining=0, retry_after="600")
    seat = await scene.seat(registry.url)
    agent = {"User-Agent": "Buildah/1.35.0", "Accept": ", ".join(MANIFEST_TYPES)}
    answer = await seat.client.get("/v2/library/app/manifests/1", headers=agent)
    assert answer.status == 404, f"{answer.status}, on which it sleeps"


@kind("Docker Hub is asked for by each of its names (ns=registry-1.docker.io): it is answered")
async def other_names(scene: Scene) -> None:
    seat, held = await _with_image(scene, 61)
    for name in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        answer = await seat.client.manifest("library/app", f"1?ns={name}")
        assert (answer.status, answer.body) == (200, held.manifest), f"{answer.status} for {name}"


@kind("a private image is here, as one client has pulled it: another client is not given it")
async def private_to_others(scene: Scene) -> None:
    registry = await scene.registry()
    held = registry.add(an_image(62), "library/app", "1")
    auth = registry.auth = BearerAuth(users={"me": "secret"}, private={"library/app": {"me"}})
    auth.realm = f"{registry.url}/token"
    seat = await scene.seat(registry.url, upstream={"access": "client"})
    scope = "service=registry.test&scope=repository:library/app:pull"
    mine = "Basic " + base64.b64encode(b"me:secret").decode()
    answer = await get(f"{registry.url}/token?{scope}", headers={"Authorization": mine})
    token = {"Authorization": f"Bearer {json.loads(answer.body)['token']}"}
    target = f"/v2/library/app/blobs/{held.layers[0]}"
    assert (await seat.client.get(target, headers=token)).body == held.blobs[held.layers[0]]
    answer = await get(f"{registry.url}/token?{scope}")
    theirs = {"Authorization": f"Bearer {json.loads(answer.body)['token']}"}
    for headers in ({}, theirs):
        answer = await seat.client.get(target, headers=headers)
        assert answer.status in {401, 403, 404}, f"{answer.status} for somebody else"
