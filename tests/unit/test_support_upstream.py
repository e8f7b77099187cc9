"""The scripted registry keeps its word; everything else stands on it."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.auth import ACR_SERVICE, BasicAuth, BearerAuth
from tests.support.client import Client, client
from tests.support.clock import FakeClock
from tests.support.images import (
    Image,
    artifact,
    digest_of,
    image,
    index,
    random_bytes,
    random_layer,
)
from tests.support.tls import Authority
from tests.support.upstream import Cdn, RateLimit, ScriptedRegistry

REPOSITORY = "library/alpine"
SIZE = 300_000
CONTENT = random_bytes(SIZE, seed=1)


@pytest.fixture
def blob(upstream: ScriptedRegistry) -> str:
    return upstream.add_blob(CONTENT, REPOSITORY)


@pytest.fixture
def alpine(upstream: ScriptedRegistry) -> Image:
    return upstream.add(image(random_layer(1000, seed=2)), REPOSITORY, "3.20")


@pytest.fixture
async def pull(upstream: ScriptedRegistry) -> AsyncIterator[Client]:
    async with client(upstream.url) as connected:
        yield connected


async def test_an_image_is_had_by_tag_and_by_digest(
    upstream: ScriptedRegistry, alpine: Image, pull: Client
) -> None:
    by_tag = await pull.manifest(REPOSITORY, "3.20")
    by_digest = await pull.manifest(REPOSITORY, alpine.digest)
    assert by_tag.body == by_digest.body == alpine.manifest
    assert by_tag.headers["Content-Type"] == alpine.media_type
    assert by_tag.headers["Docker-Content-Digest"] == alpine.digest
    for digest, blob in alpine.blobs.items():
        assert (await pull.blob(REPOSITORY, digest)).body == blob
    assert [asked.kind for asked in upstream.requests] == ["tag", "manifest", "blob", "blob"]
    assert upstream.bytes_sent(alpine.layers[0]) == 1000


async def test_a_known_manifest_is_not_sent_again(alpine: Image, pull: Client) -> None:
    target = f"/v2/{REPOSITORY}/manifests/3.20"
    headers = {"Accept": "*/*", "If-None-Match": f'"{alpine.digest}"'}
    assert (await pull.head(target, headers=headers)).status == 304


async def test_a_manifest_of_a_type_that_is_not_accepted_is_not_there(
    alpine: Image, pull: Client
) -> None:
    answer = await pull.get(
        f"/v2/{REPOSITORY}/manifests/{alpine.digest}", headers={"Accept": "application/json"}
    )
    assert answer.status == 404


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=299990-", 206, slice(299_990, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=10-999999999", 206, slice(10, None)),
        ("bytes=0-1,5-6", 200, slice(None)),
    ],
)
async def test_ranges(blob: str, pull: Client, wanted: str, status: int, part: slice) -> None:
    answer = await pull.blob(REPOSITORY, blob, headers={"Range": wanted})
    assert (answer.status, answer.body) == (status, CONTENT[part])


async def test_a_range_beyond_the_end_is_refused(blob: str, pull: Client) -> None:
    answer = await pull.blob(REPOSITORY, blob, headers={"Range": f"bytes={SIZE}-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


async def test_a_fault_strikes_as_often_as_it_says(
    upstream: ScriptedRegistry, blob: str, pull: Client
) -> None:
    fault = upstream.fault(kind="blob", truncate_at=1000, times=1, skip=1)
    assert (await pull.blob(REPOSITORY, blob)).body == CONTENT
    with pytest.raises(aiohttp.ClientPayloadError):
        await pull.blob(REPOSITORY, blob)
    assert (await pull.blob(REPOSITORY, blob)).body == CONTENT
    assert fault.struck == [upstream.requests[1]]
    assert upstream.requests[1].sent == 1000


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("ending", ["truncate_at", "reset_at"])
async def test_a_broken_body_arrives_as_far_as_it_was_sent(
    upstream: ScriptedRegistry, blob: str, pull: Client, ending: str, *, chunked: bool
) -> None:
    upstream.fault(**{ending: 200_000}, chunked=chunked)
    received = bytearray()

    async def read() -> None:
        async with pull.open(f"/v2/{REPOSITORY}/blobs/{blob}") as response:
            async for chunk in response.content.iter_any():
                received.extend(chunk)

    with pytest.raises(aiohttp.ClientPayloadError):
        await read()
    assert CONTENT.startswith(received)
    assert len(received) <= 200_000
    assert upstream.bytes_sent(blob) == 200_000


async def test_a_wrong_byte_is_wrong_only_where_it_is_sent(
    upstream: ScriptedRegistry, blob: str, pull: Client
) -> None:
    upstream.fault(corrupt_at=1000, times=1)
    later = await pull.blob(REPOSITORY, blob, headers={"Range": "bytes=1001-"})
    assert later.body == CONTENT[1001:]
    wrong = (await pull.blob(REPOSITORY, blob)).body
    assert [at for at in range(SIZE) if wrong[at] != CONTENT[at]] == [1000]


async def test_a_gate_holds_a_body_until_it_is_opened(
    upstream: ScriptedRegistry, blob: str, pull: Client
) -> None:
    gate = upstream.hold(blob, after=100_000)
    async with pull.open(f"/v2/{REPOSITORY}/blobs/{blob}") as response:
        assert await response.content.readexactly(100_000) == CONTENT[:100_000]
        assert (await gate.reached()).sent == 100_000
        gate.open()
        assert await response.content.read() == CONTENT[100_000:]


async def test_a_gate_that_cuts_breaks_the_connection(
    upstream: ScriptedRegistry, blob: str, pull: Client
) -> None:
    gate = upstream.hold(blob, after=100_000)
    async with pull.open(f"/v2/{REPOSITORY}/blobs/{blob}") as response:
        await response.content.readexactly(100_000)
        gate.cut()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    assert (await pull.blob(REPOSITORY, blob)).body == CONTENT


@pytest.mark.parametrize(("silence", "sent"), [({"hang": True}, 0), ({"stall_at": 100}, 100)])
async def test_silence_lasts_until_the_client_has_heard_enough(
    upstream: ScriptedRegistry, blob: str, pull: Client, silence: dict[str, int], sent: int
) -> None:
    upstream.fault(**silence)
    async with asyncio.TaskGroup() as tasks:
        pulling = tasks.create_task(pull.blob(REPOSITORY, blob))
        (asked,) = await upstream.was_asked("blob", sent=sent)
        assert not asked.ended
        pulling.cancel()
    await upstream.was_asked("blob", ended=True, sent=sent)


async def test_a_dropped_request_gets_no_answer(
    upstream: ScriptedRegistry, blob: str, pull: Client
) -> None:
    upstream.fault(drop=True)
    with pytest.raises((aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await pull.blob(REPOSITORY, blob)


async def test_other_headers_statuses_and_bodies(
    upstream: ScriptedRegistry, blob: str, pull: Client
) -> None:
    upstream.fault(status=429, headers={"Retry-After": "7"}, times=1)
    refused = await pull.blob(REPOSITORY, blob)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "7")
    assert json.loads(refused.body)["errors"][0]["code"] == "TOOMANYREQUESTS"

    upstream.fault(omit=("Docker-Content-Digest", "Content-Type"), chunked=True, times=1)
    bare = await pull.blob(REPOSITORY, blob)
    assert bare.body == CONTENT
    assert not {"Docker-Content-Digest", "Content-Type", "Content-Length"} & set(bare.headers)

    upstream.fault(ignore_range=True, times=1)
    assert (await pull.blob(REPOSITORY, blob, headers={"Range": "bytes=5-"})).status == 200

    upstream.fault(kind="blob", method="HEAD", status=405)
    assert (await pull.head(f"/v2/{REPOSITORY}/blobs/{blob}")).status == 405

    upstream.fault(body=b"a lie")
    assert (await pull.blob(REPOSITORY, blob)).body == b"a lie"


async def test_a_token_is_good_for_its_scope_and_its_life(
    upstream: ScriptedRegistry, alpine: Image, pull: Client, clock: FakeClock
) -> None:
    realm = f"{upstream.url}/token"
    upstream.auth = BearerAuth(realm=realm, service=ACR_SERVICE, key="access_token")
    refused = await pull.manifest(REPOSITORY, "3.20")
    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"] == (
        f'Bearer realm="{realm}",service="{ACR_SERVICE}",scope="repository:{REPOSITORY}:pull"'
    )
    answer = await pull.get(f"/token?service={ACR_SERVICE}&scope=repository:{REPOSITORY}:pull")
    granted = json.loads(answer.body)
    assert granted["expires_in"] == 300
    headers = {"Authorization": f"Bearer {granted['access_token']}"}
    target = f"/v2/{REPOSITORY}/blobs/{alpine.config}"
    assert (await pull.get(target, headers=headers)).status == 200
    assert (await pull.get(target.replace("alpine", "other"), headers=headers)).status == 401
    clock.advance(300)
    assert (await pull.get(target, headers=headers)).status == 401


async def test_a_private_repository_is_open_to_its_users_only(
    upstream: ScriptedRegistry, alpine: Image, pull: Client
) -> None:
    upstream.auth = BearerAuth(
        users={"ann": "secret", "bob": "secret"}, private={REPOSITORY: {"ann"}}
    )

    async def status(**headers: str) -> int:
        target = f"/token?service=registry.test&scope=repository:{REPOSITORY}:pull"
        granted = await pull.get(target, headers=headers)
        if granted.status != 200:
            return granted.status
        token = json.loads(granted.body)["token"]
        return (
            await pull.get(
                f"/v2/{REPOSITORY}/blobs/{alpine.config}",
                headers={"Authorization": f"Bearer {token}"},
            )
        ).status

    assert await status() == 401
    assert await status(Authorization=_basic("ann:secret")) == 200
    assert await status(Authorization=_basic("bob:secret")) == 401
    assert await status(Authorization=_basic("ann:wrong")) == 401
    upstream.auth = BasicAuth(users={"ann": "secret"})
    ping = {"Authorization": _basic("ann:secret")}
    assert (await pull.get("/v2/", headers=ping)).status == 200
    assert (await pull.get("/v2/")).headers["WWW-Authenticate"] == 'Basic realm="registry"'


async def test_the_cdn_takes_its_own_links_only(
    upstream: ScriptedRegistry, blob: str, pull: Client, clock: FakeClock
) -> None:
    upstream.cdn = Cdn(life=60, host="localhost")
    redirect = await pull.blob(REPOSITORY, blob)
    link = redirect.headers["Location"].replace("localhost", "127.0.0.1")
    assert redirect.status == 307
    async with client("") as anyone:
        part = await anyone.get(link, headers={"Range": "bytes=9-"})
        assert (part.status, part.body) == (206, CONTENT[9:])
        assert (await anyone.get(link, headers={"Authorization": "Bearer x"})).status == 400
        assert (await anyone.get(link.replace("%2B", "+"))).status == 403
        clock.advance(60)
        assert (await anyone.get(link)).status == 403
    assert [asked.kind for asked in await upstream.was_asked(count=5, ended=True)] == [
        "blob",
        *["cdn"] * 4,
    ]
    assert upstream.bytes_sent(blob) > len(CONTENT) - 9


async def test_only_gets_of_manifests_count_against_the_rate_limit(
    upstream: ScriptedRegistry, alpine: Image, pull: Client
) -> None:
    upstream.rate_limit = RateLimit(limit=1, remaining=1, retry_after="60")
    head = await pull.head(f"/v2/{REPOSITORY}/manifests/3.20", headers={"Accept": "*/*"})
    assert head.headers["ratelimit-remaining"] == "1;w=21600"
    assert (await pull.manifest(REPOSITORY, alpine.digest)).status == 200
    over = await pull.manifest(REPOSITORY, alpine.digest)
    assert (over.status, over.headers["Retry-After"]) == (429, "60")
    assert (await pull.blob(REPOSITORY, alpine.config)).status == 200


async def test_tags_come_in_pages(upstream: ScriptedRegistry, alpine: Image, pull: Client) -> None:
    for tag in ("b", "a", "c"):
        upstream.add(alpine, REPOSITORY, tag)
    upstream.max_page = 2
    target: str | None = f"/v2/{REPOSITORY}/tags/list"
    pages = []
    while target:
        page = await pull.get(target)
        pages.append(json.loads(page.body)["tags"])
        link = page.headers.get("Link")
        target = link[1 : link.index(">")] if link else None
    assert pages == [["3.20", "a"], ["b", "c"]]
    upstream.ignores_pagination = True
    everything = await pull.get(f"/v2/{REPOSITORY}/tags/list?n=1")
    assert json.loads(everything.body)["tags"] == ["3.20", "a", "b", "c"]


async def test_referrers_are_what_refers(
    upstream: ScriptedRegistry, alpine: Image, pull: Client
) -> None:
    signature = upstream.add(artifact(b"signed", subject=alpine), REPOSITORY)
    target = f"/v2/{REPOSITORY}/referrers/{alpine.digest}"
    found = json.loads((await pull.get(target)).body)
    assert [entry["digest"] for entry in found["manifests"]] == [signature.digest]
    other = await pull.get(f"{target}?artifactType=application/other")
    assert json.loads(other.body)["manifests"] == []
    assert other.headers["OCI-Filters-Applied"] == "artifactType"
    upstream.has_referrers = False
    assert (await pull.get(target)).status == 404


async def test_a_registry_that_is_only_pulled_from_takes_nothing(
    upstream: ScriptedRegistry, pull: Client
) -> None:
    async with pull.open(f"/v2/{REPOSITORY}/blobs/uploads/", method="POST") as answer:
        assert answer.status == 405


async def test_an_index_brings_its_members(upstream: ScriptedRegistry, pull: Client) -> None:
    members = [
        image(random_layer(10, seed=seed), architecture=architecture)
        for seed, architecture in enumerate(("amd64", "arm64"))
    ]
    many = upstream.add(index(*members), REPOSITORY, "many")
    assert (await pull.manifest(REPOSITORY, "many")).digest == many.digest
    for member in members:
        assert (await pull.manifest(REPOSITORY, member.digest)).body == member.manifest


async def test_a_sha512_digest_is_a_digest(upstream: ScriptedRegistry, pull: Client) -> None:
    digest = upstream.add_blob(b"content", REPOSITORY, "sha512")
    assert digest == digest_of(b"content", "sha512")
    assert (await pull.blob(REPOSITORY, digest)).body == b"content"


async def test_a_stopped_registry_is_back_on_the_same_port(
    upstream: ScriptedRegistry, alpine: Image, pull: Client
) -> None:
    await upstream.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await pull.get("/v2/")
    await upstream.start()
    assert (await pull.get("/v2/")).status == 200


async def test_tls_is_trusted_by_its_authority_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with ScriptedRegistry(server_context=authority.server_context()) as registry:
        async with client(registry.url, ca_file=str(authority.ca_file)) as trusting:
            assert (await trusting.get("/v2/")).status == 200
        async with client(registry.url) as wary:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await wary.get("/v2/")


def _basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"
