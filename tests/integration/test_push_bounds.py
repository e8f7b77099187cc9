"""How much may be pushed, by whom, and what need not be sent at all."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import bcrypt
import pytest
from aiohttp import ClientSession, TCPConnector

from tests.conftest import StartMirror
from tests.support.client import Client
from tests.support.clock import FakeClock
from tests.support.images import digest_of, image, random_bytes, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.process import run, until
from tests.support.pusher import Pusher, Upload, codes
from tests.support.pushing import NAME, bytes_taken, held, spooled, start_pushing
from tests.support.require import require
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

MIB = 1 << 20
LARGE = random_bytes(3 * MIB, seed=7)
DIGEST = digest_of(LARGE)
BASE = image(random_layer(300_000, seed=8))
[LAYER] = BASE.layers
MOUNT = f"?mount={LAYER}&from=library/base"


pytestmark = pytest.mark.usefixtures("takes_pushes")


async def test_a_blob_that_is_too_large_is_413_and_can_be_cancelled(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream, push={"max_blob_size": "2 MiB"})
    upload = await Pusher(mirror.client, NAME).begin()
    assert (await upload.patch(LARGE[: 2 * MIB])).status == 202
    answer = await upload.patch(b"x")
    assert (answer.status, codes(answer)) == (413, ["SIZE_INVALID"])
    counted = {"kind": "bytes", "outcome": "refused"}
    assert await mirror.metric("mirror_push_requests_total", **counted) == 1
    assert (await upload.cancel()).status == 204
    assert not spooled(mirror)


async def test_a_manifest_that_is_too_large_is_413(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream)
    pusher = Pusher(mirror.client, NAME)
    answer = await pusher.ask(
        "PUT", f"/v2/{NAME}/manifests/1", bytes(4 * MIB + 1), {"Content-Type": BASE.media_type}
    )
    assert (answer.status, codes(answer)) == (413, ["MANIFEST_INVALID"])
    assert not upstream.requests


async def test_who_has_too_many_uploads_is_told_when_to_come_again(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    mirror = await start_pushing(start_mirror, upstream, push={"max_uploads": 2})
    pusher = Pusher(mirror.client, NAME)
    first = await pusher.begin()
    await pusher.begin()
    answer = await pusher.post()
    assert (answer.status, codes(answer)) == (429, ["TOOMANYREQUESTS"])
    assert int(answer.headers["Retry-After"]) > 0
    clock.advance(61)  # the oldest that is left alone makes place
    await pusher.begin()
    assert (await first.status()).status == 404


async def test_where_there_is_no_room_the_client_is_told_and_what_rests_makes_some(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream, push={"max_spool": "4 MiB"})
    pusher = Pusher(mirror.client, NAME)
    rests = await pusher.begin()
    await rests.patch(LARGE)
    await upstream.was_asked("upload", method="PATCH", ended=True)
    other = random_bytes(5 * MIB, seed=9)
    upload = await pusher.begin()
    answer = await upload.patch(other)
    assert (answer.status, codes(answer)) == (507, ["SIZE_INVALID"])
    assert (await rests.status()).status == 404
    assert (await upload.cancel()).status == 204
    assert await pusher.blob(LARGE) == DIGEST


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("127.0.0.1", "127.0.0.3")])
async def test_who_has_more_of_the_disk_than_others_makes_room_for_them(
    upstream: ScriptedRegistry, start_mirror: StartMirror, addresses: tuple[str, ...]
) -> None:
    """Also who brings the same from two addresses, such as those of IPv4 and IPv6."""
    mirror = await start_pushing(start_mirror, upstream, push={"max_spool": "8 MiB"})
    async with AsyncExitStack() as stack:
        for seed in (31, 32):  # which never end
            content = random_bytes(7 * MIB // 2, seed=seed)
            for address in addresses:
                upload = await (await _pusher_at(address, mirror, stack)).begin()
                await _bring_all_but_one_byte(upload, content, mirror, stack)
        await mirror.until_metric("mirror_push_spool_bytes", 7 * MIB)
        brought = 7 * MIB * len(addresses)
        await mirror.until_metric("mirror_push_received_bytes_total", brought)
        pusher = await _pusher_at(addresses[-1], mirror, stack)
        answer = await (await pusher.begin()).patch(LARGE)
        assert (answer.status, codes(answer)) == (507, ["SIZE_INVALID"])
        other = await _pusher_at("127.0.0.2", mirror, stack)
        assert await other.blob(LARGE) == DIGEST
    assert held(upstream, DIGEST) == LARGE


async def _pusher_at(address: str, mirror: InnerMirror, stack: AsyncExitStack) -> Pusher:
    session = ClientSession(connector=TCPConnector(local_addr=(address, 0)))
    return Pusher(Client(await stack.enter_async_context(session), mirror.url), NAME)


async def _bring_all_but_one_byte(
    upload: Upload, content: bytes, mirror: InnerMirror, stack: AsyncExitStack
) -> None:
    host, _, port = mirror.host.partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    stack.callback(writer.close)
    writer.write(f"PATCH {upload.location} HTTP/1.1\r\nHost: x\r\n".encode())
    writer.write(f"Content-Length: {len(content) + 1}\r\n\r\n".encode() + content)
    await writer.drain()


async def test_a_disk_that_is_full_fails_the_push_and_nothing_else(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream, store={"max_size": "4 MiB"})
    pusher = Pusher(mirror.client, NAME)
    upload = await pusher.begin()
    answer = await upload.patch(LARGE)  # more than a half of the store
    assert answer.status == 507
    upstream.add(BASE, NAME, "1")
    assert (await mirror.client.blob(NAME, LAYER)).status == 200


async def test_what_upstream_mounts_is_there_without_a_byte(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(BASE, "library/base", "1")
    upstream.add(image(random_layer(10, seed=1)), NAME)
    mirror = await start_pushing(start_mirror, upstream)
    answer = await Pusher(mirror.client, NAME).post(MOUNT)
    assert answer.status == 201
    assert answer.headers["Location"] == f"/v2/{NAME}/blobs/{LAYER}"
    assert held(upstream, LAYER) == BASE.blobs[LAYER]
    assert not bytes_taken(upstream)


async def test_what_upstream_will_not_mount_and_is_here_is_sent_from_here(
    upstream: ScriptedRegistry, takes_pushes: Pushes, start_mirror: StartMirror
) -> None:
    takes_pushes.mounts = False
    upstream.add(BASE, "library/base", "1")
    mirror = await start_pushing(start_mirror, upstream)
    pusher = Pusher(mirror.client, NAME)
    assert (await pusher.post(MOUNT)).status == 202  # not here yet
    for what in ("manifests/1", f"blobs/{LAYER}"):
        await mirror.client.get(f"/v2/library/base/{what}")
    await mirror.until_metric("mirror_fills_total", 1, outcome="committed")
    answer = await pusher.post(MOUNT)
    assert answer.status == 201
    assert held(upstream, LAYER) == BASE.blobs[LAYER]
    assert await mirror.metric("mirror_push_received_bytes_total") == 0


@pytest.fixture
async def has_pushed(
    upstream: ScriptedRegistry, takes_pushes: Pushes, start_mirror: StartMirror
) -> Pusher:
    """Who has pushed a layer of `BASE` a moment ago, to a registry that mounts nothing."""
    takes_pushes.mounts = False
    upstream.add(BASE, "library/base", "1")
    mirror = await start_pushing(start_mirror, upstream)
    assert (await mirror.client.get("/v2/library/base/manifests/1")).status == 200
    pusher = Pusher(mirror.client, NAME)
    await pusher.blob(BASE.blobs[LAYER])
    return pusher


async def test_what_was_deleted_upstream_a_moment_after_it_was_pushed_is_sent_again_from_here(
    upstream: ScriptedRegistry, has_pushed: Pusher
) -> None:
    del upstream.repositories[NAME].blobs[LAYER]
    assert (await has_pushed.post(MOUNT)).status == 201
    assert held(upstream, LAYER) == BASE.blobs[LAYER]


async def test_what_another_gives_up_while_upstream_is_asked_is_sent_from_here(
    upstream: ScriptedRegistry, takes_pushes: Pushes, has_pushed: Pusher
) -> None:
    del upstream.repositories[NAME].blobs[LAYER]
    another = await has_pushed.begin()
    await another.patch(BASE.blobs[LAYER])
    sending = takes_pushes.hold(after=1000)
    async with asyncio.TaskGroup() as tasks:
        giving_up = tasks.create_task(another.put(b"", LAYER))
        await sending.reached()
        asking = upstream.hold(LAYER)
        mounting = tasks.create_task(has_pushed.post(MOUNT))
        await asking.reached()
        assert (await another.cancel()).status == 204
        asking.open()
        sending.open()
    assert giving_up.result().status == 404
    assert mounting.result().status == 201
    assert held(upstream, LAYER) == BASE.blobs[LAYER]


async def test_where_upstream_does_not_say_what_it_has_one_upload_is_left_there(
    upstream: ScriptedRegistry, takes_pushes: Pushes, has_pushed: Pusher
) -> None:
    upstream.fault(kind="blob", method="HEAD", status=503)
    assert (await has_pushed.post(MOUNT)).status == 202
    await upstream.was_asked("upload", method="DELETE", ended=True)
    assert len(takes_pushes.uploads) == 1


async def test_what_is_here_of_another_registry_is_sent_from_here(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    async with ScriptedRegistry() as other:
        other.add(BASE, "org/base", "1")
        mirror = await start_mirror(
            {
                "docker.io": upstream_at(upstream.url) | {"push": "client"},
                "ghcr.io": upstream_at(other.url),
            }
        )
        for what in ("manifests/1", f"blobs/{LAYER}"):
            await mirror.client.get(f"/v2/ghcr.io/org/base/{what}")
        await mirror.until_metric("mirror_fills_total", 1, outcome="committed")
        answer = await Pusher(mirror.client, NAME).post(f"?mount={LAYER}&from=ghcr.io/org/base")
    assert answer.status == 201
    assert held(upstream, LAYER) == BASE.blobs[LAYER]


async def test_knowing_a_digest_is_not_enough_to_have_it_mounted(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(BASE, "library/base", "1")
    mirror = await start_pushing(start_mirror, upstream)
    for what in ("manifests/1", f"blobs/{LAYER}"):
        await mirror.client.get(f"/v2/library/base/{what}")
    await mirror.until_metric("mirror_fills_total", 1, outcome="committed")
    for source in ("library/other", "ghcr.io/no/where"):
        answer = await Pusher(mirror.client, NAME).post(f"?mount={LAYER}&from={source}")
        assert answer.status == 202
    assert held(upstream, LAYER) is None


async def test_what_only_the_pusher_may_read_is_not_served_to_others(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """Where the mirror's own credentials decide who may pull, theirs must reach that far."""
    mirror = await start_pushing(start_mirror, upstream)
    pusher = Pusher(mirror.client, NAME)
    for method in ("GET", "HEAD"):
        for kind in ("blob", "manifest", "tag"):
            upstream.fault(kind=kind, method=method, status=401)
    await pusher.image(BASE, "1")
    assert held(upstream, LAYER) == BASE.blobs[LAYER]
    for what in ("manifests/1", f"manifests/{BASE.digest}", f"blobs/{LAYER}"):
        assert (await mirror.client.get(f"/v2/{NAME}/{what}")).status == 403
    assert not spooled(mirror)


async def test_the_registrys_denial_is_passed_on_in_its_words_with_its_challenge(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream)
    challenge = 'Bearer realm="https://auth.example/token",service="x",scope="y"'
    upstream.fault(
        kind="upload", method="POST", status=401, headers={"WWW-Authenticate": challenge}, times=1
    )
    answer = await Pusher(mirror.client, NAME).post()
    assert (answer.status, codes(answer)) == (401, ["UNAUTHORIZED"])
    assert answer.headers["WWW-Authenticate"] == challenge
    upstream.fault(kind="upload", method="POST", status=403, times=1)
    answer = await Pusher(mirror.client, NAME).post()
    assert (answer.status, codes(answer)) == (403, ["DENIED"])


async def test_what_the_mirror_itself_refuses_opens_no_registry_to_who_shows_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """Else anybody could have each HEAD for what is here cost a question upstream."""
    upstream.add(BASE, NAME, "1")
    mirror = await start_pushing(start_mirror, upstream)
    assert (await mirror.client.manifest(NAME, "1")).status == 200
    assert (await mirror.client.blob(NAME, LAYER)).status == 200
    upstream.forget()
    challenge = {"WWW-Authenticate": 'Basic realm="hub"'}
    upstream.fault(kind="blob", method="HEAD", status=401, headers=challenge)
    pusher = Pusher(mirror.client, NAME)
    assert codes(await pusher.manifest(BASE, DIGEST)) == ["DIGEST_INVALID"]
    assert (await pusher.head(LAYER)).status == 200
    assert not upstream.requests


async def test_a_ping_challenges_at_a_host_of_the_upstream_and_nowhere_else(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream, settings={"hosts": ["hub.example"]})
    upstream.fault(kind="ping", status=401, headers={"WWW-Authenticate": 'Basic realm="hub"'})
    answer = await mirror.client.get("/v2/", headers={"Host": "hub.example"})
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="hub"')
    assert (await mirror.client.get("/v2/")).status == 200


async def test_an_upload_is_of_its_repository_alone(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream)
    upload = await Pusher(mirror.client, NAME).begin()
    upload.location = upload.location.replace(NAME, "library/other")
    answer = await upload.patch(b"x")
    assert (answer.status, codes(answer)) == (404, ["BLOB_UPLOAD_UNKNOWN"])


async def test_users_of_the_mirror_push_with_its_credentials(
    upstream: ScriptedRegistry, start_mirror: StartMirror, tmp_path: Path
) -> None:
    secret = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    file = tmp_path / "htpasswd"
    file.write_text(f"anna:{secret}\n")
    mirror: InnerMirror = await start_pushing(
        start_mirror, upstream, settings={"push": "mirror"}, server={"htpasswd_file": str(file)}
    )
    assert (await Pusher(mirror.client, NAME).post()).status == 401
    pusher = Pusher(mirror.client, NAME, {"Authorization": "Basic YW5uYTpwdw=="})
    assert await pusher.blob(LARGE) == DIGEST
    assert all("YW5uYTpwdw" not in str(asked.headers) for asked in upstream.requests)


async def test_a_client_that_expects_to_be_told_is_told_to_go_on(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_pushing(start_mirror, upstream)
    upload = await Pusher(mirror.client, NAME).begin()
    host, _, port = mirror.host.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"PATCH {upload.location} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        "Content-Length: 3\r\n\r\n".encode()
    )
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    await reader.readline()
    writer.write(b"abc")
    assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("way", ["POST", "PUT"])
async def test_who_waits_to_be_told_brings_nothing_of_what_the_registry_has(
    upstream: ScriptedRegistry, takes_pushes: Pushes, start_mirror: StartMirror, way: str
) -> None:
    mirror = await start_pushing(start_mirror, upstream)
    pusher = Pusher(mirror.client, NAME)
    await pusher.blob(LARGE)
    target = f"/v2/{NAME}/blobs/uploads/?digest={DIGEST}"
    if way == "PUT":
        target = f"{(await pusher.begin()).location}?digest={DIGEST}"
    for _ in range(2 if way == "POST" else 1):
        host, _, port = mirror.host.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"{way} {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            f"Content-Length: {len(LARGE)}\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 201 ")
        assert f"Docker-Content-Digest: {DIGEST}" in head
        assert "Connection: close" in head
        writer.close()
        await writer.wait_closed()
    assert bytes_taken(upstream) == len(LARGE)

    async def is_given_up() -> bool:
        return not takes_pushes.uploads

    await until(is_given_up)


async def test_who_waits_to_be_told_brings_what_the_registry_has_not(
    upstream: ScriptedRegistry, start_mirror: StartMirror, tmp_path: Path
) -> None:
    require("curl")
    mirror = await start_pushing(start_mirror, upstream)
    file = tmp_path / "blob"
    await asyncio.to_thread(file.write_bytes, LARGE)
    url = f"{mirror.url}/v2/{NAME}/blobs/uploads/?digest={DIGEST}"
    told = ("--write-out", "%{http_code} %{size_upload}", "--output", "/dev/null")
    waits = ("--silent", "--header", "Expect: 100-continue", "--expect100-timeout", "60")
    command = ("curl", "--request", "POST", *waits, *told, "--data-binary", f"@{file}", url)
    assert (await run(*command)).stdout == f"201 {len(LARGE)}"
    assert (await run(*command)).stdout == "201 0"
    assert held(upstream, DIGEST) == LARGE
