"""What registries, token servers and what stands before them do, where clients that go direct pull.

Each of these was met by others; where it is on record, the thread is named.
"""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartMirror
from tests.support.auth import BasicAuth, BearerAuth
from tests.support.evil import Ask, Behaviour, Evil, redirects, says, tells
from tests.support.images import OCI_INDEX, Image, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import Cdn, ScriptedRegistry

APP = image(random_layer(4096, seed=61))
LARGE = image(random_layer(17 * 2**20, seed=62))  # fetched in parts
OK = b"HTTP/1.1 200 OK"

Make = Callable[[bytes], Behaviour]


@pytest.fixture
async def evil() -> AsyncIterator[Evil]:
    async with Evil() as registry:
        yield registry


def _hold(evil: Evil, held: Image, *, blob: Make = tells, manifest: Make = tells) -> None:
    evil.on("/manifests/", manifest(held.manifest))
    for digest, content in held.blobs.items():
        evil.on(f"/blobs/{digest}", blob(content))


async def _pull(mirror: InnerMirror, held: Image) -> None:
    answer = await mirror.client.manifest("app", "1")
    assert (answer.status, answer.body) == (200, held.manifest)
    for digest, content in held.blobs.items():
        blob = await mirror.client.blob("app", digest)
        assert blob.status == 200, blob.body
        assert blob.body == content


# Who is a stranger.


@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
async def test_what_is_hidden_from_strangers_comes_to_who_has_a_password(
    upstream: ScriptedRegistry,
    start_mirror: StartMirror,
    tmp_path: Path,
    scheme: str,
    status: int,
) -> None:
    """GitHub Packages says 404, and challenges at `/v2/` alone (containerd#3291)."""
    upstream.add(APP, "library/app", "1")
    users = {"anna": "secret"}
    upstream.auth = (
        BasicAuth(users=users)
        if scheme == "Basic"
        else BearerAuth(users=users, realm=f"{upstream.url}/token", anonymous=False)
    )
    upstream.fault(
        where=lambda asked: (
            asked.kind not in {"ping", "token"} and "Authorization" not in asked.headers
        ),
        status=status,
        omit=("WWW-Authenticate",),
    )
    password = tmp_path / "password"
    password.write_text("secret", encoding="utf-8")
    settings: dict[str, Any] = {"username": "anna", "password_file": str(password)}
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url, **settings)})
    await _pull(mirror, APP)
    strangers = [it for it in upstream.requests if "Authorization" not in it.headers]
    assert [it.kind for it in strangers] == ["tag", "ping"]


async def test_a_registry_without_passwords_is_asked_for_a_challenge_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror, tmp_path: Path
) -> None:
    upstream.add(APP, "library/app", "1")
    password = tmp_path / "password"
    password.write_text("secret", encoding="utf-8")
    settings: dict[str, Any] = {"username": "anna", "password_file": str(password)}
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url, **settings)})
    for tag in ("2", "3", "4"):
        assert (await mirror.client.manifest("app", tag)).status == 404
    assert len(upstream.asked("ping")) == 1


async def test_of_two_token_servers_the_first_is_asked(
    evil: Evil, start_mirror: StartMirror
) -> None:
    """As containerd, podman and crane do."""
    evil.on("/token", tells(b'{"token":"good"}'))
    realm = b'WWW-Authenticate: Bearer realm="%b/%b"'
    challenges = [realm % (evil.url.encode(), path) for path in (b"token", b"elsewhere")]

    def guarded(content: bytes) -> Behaviour:
        async def behave(ask: Ask) -> None:
            is_in = "Authorization: Bearer good" in ask.head
            refuses = says(b"HTTP/1.1 401 Who", *challenges, b"Content-Length: 0")
            await (tells(content) if is_in else refuses)(ask)

        return behave

    _hold(evil, APP, blob=guarded, manifest=guarded)
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    await _pull(mirror, APP)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (b"HTTP/1.1 201 Created", b'{"token":"good"}'),
        (b"HTTP/1.1 203 Other", b'{"token":"good"}'),
        (OK, b'{"token":"good","account":"Andr\xe9"}'),
    ],
)
async def test_a_token_is_one_however_it_is_told(
    evil: Evil, start_mirror: StartMirror, status: bytes, body: bytes
) -> None:
    evil.on("/token", says(status, b"Content-Length: %d" % len(body), body=body))
    challenge = b'WWW-Authenticate: Bearer realm="%b/token"' % evil.url.encode()

    async def manifest(ask: Ask) -> None:
        is_in = "Authorization: Bearer good" in ask.head
        refuses = says(b"HTTP/1.1 401 Who", challenge, b"Content-Length: 0")
        await (tells(APP.manifest) if is_in else refuses)(ask)

    evil.on("/manifests/", manifest)
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    assert (await mirror.client.manifest("app", "1")).digest == APP.digest


# Layers.


@pytest.mark.parametrize("status", [400, 403, 405, 416, 500, 501])
async def test_where_ranges_are_refused_a_large_layer_comes_in_one_piece(
    upstream: ScriptedRegistry, start_mirror: StartMirror, status: int
) -> None:
    """Proxies that look for viruses refuse what they would see a part of."""
    upstream.add(LARGE, "library/app", "1")
    upstream.fault(where=lambda asked: "Range" in asked.headers, status=status)
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url)})
    await _pull(mirror, LARGE)


async def test_where_ranges_are_refused_a_layer_that_broke_is_finished(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(LARGE, "library/app", "1")
    upstream.fault(where=lambda asked: "Range" in asked.headers, status=403)
    upstream.fault(kind="blob", reference=LARGE.layers[0], reset_at=2**20, times=1)
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url)})
    await _pull(mirror, LARGE)


@pytest.mark.parametrize("told", [None, "bytes */*", "bytes 7-8/9"])
async def test_where_parts_do_not_say_which_they_are_a_large_layer_comes_in_one_piece(
    upstream: ScriptedRegistry, start_mirror: StartMirror, told: str | None
) -> None:
    """Docker, which asks for no parts, pulls from there (containerd#12291)."""
    upstream.add(LARGE, "library/app", "1")
    upstream.fault(
        where=lambda asked: "Range" in asked.headers,
        headers={"Content-Range": told} if told else {},
        omit=() if told else ("Content-Range",),
    )
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url)})
    await _pull(mirror, LARGE)


async def test_where_a_part_does_not_say_of_how_much_it_is_nobody_is_told_a_size(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(APP, "library/app", "1")
    upstream.fault(kind="blob", method="HEAD", status=405)
    upstream.fault(kind="blob", omit=("Content-Range",))
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url)})
    path = f"/v2/app/blobs/{APP.layers[0]}"
    assert (await mirror.client.head(path)).status == 502
    assert (await mirror.client.get(path)).body == APP.blobs[APP.layers[0]]


@pytest.mark.parametrize("status", [404, 500])
async def test_podman_pulls_where_head_of_a_blob_has_no_answer(
    upstream: ScriptedRegistry, start_mirror: StartMirror, status: int
) -> None:
    """Harbor's proxy projects know by GET alone what they have not fetched yet (harbor#22609)."""
    upstream.add(APP, "library/app", "1")
    upstream.fault(kind="blob", method="HEAD", status=status)
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url)})
    podman = {"User-Agent": "containers/5.34.0 (github.com/containers/image)"}
    answer = await mirror.client.get("/v2/app/manifests/1", headers=podman)
    assert (answer.status, answer.body) == (200, APP.manifest)
    head = await mirror.client.head(f"/v2/app/blobs/{APP.layers[0]}")
    assert head.headers["Content-Length"] == str(len(APP.blobs[APP.layers[0]]))
    await _pull(mirror, APP)


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_storage_that_is_busy_for_a_moment_is_asked_once_more_by_a_new_link(
    upstream: ScriptedRegistry, start_mirror: StartMirror, status: int
) -> None:
    """docker tries again of itself, and would be told 404 here (hub-feedback#2442)."""
    upstream.add(APP, "library/app", "1")
    upstream.cdn = Cdn(host="localhost")
    busy = b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>"
    upstream.fault(kind="cdn", reference=APP.layers[0], status=status, body=busy, times=1)
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url)})
    await _pull(mirror, APP)
    assert len({it.target for it in upstream.asked("cdn", reference=APP.layers[0])}) == 2


async def test_a_layer_that_is_denied_is_denied(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(LARGE, "library/app", "1")
    upstream.fault(kind="blob", status=403)
    mirror = await start_mirror({"docker.io": upstream_at(upstream.url)})
    await mirror.client.manifest("app", "1")
    assert (await mirror.client.blob("app", LARGE.layers[0])).status == 403


@pytest.mark.parametrize("status", [b"203 By A Proxy", b"206 Part"])
async def test_a_layer_is_whole_whatever_success_is_called(
    evil: Evil, start_mirror: StartMirror, status: bytes
) -> None:
    def blob(content: bytes) -> Behaviour:
        length = b"Content-Length: %d" % len(content)
        return says(b"HTTP/1.1 " + status, length, body=content)

    _hold(evil, APP, blob=blob)
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    await _pull(mirror, APP)


# Tags.


async def test_a_tag_that_has_moved_is_seen_where_head_fails(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """And HEAD is asked the next time: it may have been a moment's, and a GET may be a pull."""
    upstream.add(APP, "library/app", "1")
    mirror = await start_mirror(tags={"fresh_for": "0s"})
    await _pull(mirror, APP)
    upstream.fault(kind="tag", method="HEAD", status=500, times=1)
    moved = upstream.add(image(random_layer(4096, seed=63)), "library/app", "1")
    upstream.forget()
    await _pull(mirror, moved)
    await _pull(mirror, moved)
    assert [it.method for it in upstream.asked("tag")] == ["HEAD", "GET", "HEAD"]


async def test_where_the_bytes_of_a_tag_are_others_than_its_digest_says_the_digest_counts(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """As for docker and containerd; a tag that moves meanwhile, or caches in between, do that."""
    upstream.add(image(random_layer(4096, seed=63)), "library/app", "1")
    upstream.add(APP, "library/app")
    upstream.fault(kind="tag", headers={"Docker-Content-Digest": APP.digest})
    mirror = await start_mirror()
    await _pull(mirror, APP)


async def test_a_tag_that_has_moved_is_seen_where_manifests_are_known_by_tag_alone(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """podman pulls there, and so do all through the mirror (containerd#2840, nixery#102)."""
    upstream.add(APP, "library/app", "1")
    upstream.fault(kind="manifest", status=404)
    mirror = await start_mirror(tags={"fresh_for": "0s"})
    await _pull(mirror, APP)
    moved = upstream.add(image(random_layer(4096, seed=63)), "library/app", "1")
    await _pull(mirror, moved)
    assert (await mirror.client.manifest("app", moved.digest)).body == moved.manifest


async def test_where_nothing_has_the_digest_of_a_tag_there_is_no_answer(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """It is another fault than a tag that is not there, and is not remembered as that."""
    upstream.add(APP, "library/app", "1")
    wrong = {"Docker-Content-Digest": f"sha256:{'0' * 64}"}
    upstream.fault(kind="tag", headers=wrong, times=1)
    mirror = await start_mirror()
    assert (await mirror.client.manifest("app", "1")).status == 502
    await _pull(mirror, APP)


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_who_speaks_of_too_many_requests_limits_the_rate_whatever_the_status(
    upstream: ScriptedRegistry, start_mirror: StartMirror, status: int
) -> None:
    upstream.add(APP, "library/app", "1")
    mirror = await start_mirror(tags={"fresh_for": "0s"})
    await _pull(mirror, APP)
    said = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}'
    upstream.fault(where=lambda asked: asked.kind != "blob", status=status, body=said)
    await _pull(mirror, APP)  # nobody was denied anything
    answer = await mirror.client.manifest("other", "1")
    assert (answer.status, "Retry-After" in answer.headers) == (429, True)


@pytest.mark.parametrize("hops", [6, 10])
async def test_as_many_redirects_are_followed_as_clients_follow(
    evil: Evil, start_mirror: StartMirror, hops: int
) -> None:
    _hold(evil, APP)
    for number in range(hops):
        target = f"/hop/{number + 1}/" if number + 1 < hops else "/there"
        evil.on(f"/hop/{number}/", redirects(target))
    evil.on("/there", tells(APP.manifest))
    evil.on("/manifests/", redirects("/hop/1/"))
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    await _pull(mirror, APP)


# Manifests.


def _with(**members: object) -> bytes:
    return json.dumps(json.loads(APP.manifest) | members).encode()


_LAYER: dict[str, Any] = json.loads(APP.manifest)["layers"][0]
_PADDING = {"annotations": {"padding": "." * 300_000}}  # it is read as large ones are
MANIFESTS = {
    "an annotation in Latin-1": _with(annotations={"by": "Andr@"}).replace(b"@", b"\xe9"),
    "an annotation in GBK": _with(annotations={"by": "@"}).replace(b"@", "镜像".encode("gbk")),
    "large, a layer without a size": _with(layers=[_LAYER | {"size": None}], **_PADDING),
    "large, a layer without a type": _with(layers=[_LAYER | {"mediaType": None}], **_PADDING),
    "large, a platform without a system": _with(
        layers=[_LAYER | {"platform": {"os": None, "architecture": "amd64"}}], **_PADDING
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
async def test_a_manifest_that_gos_json_reads_is_one(
    evil: Evil, start_mirror: StartMirror, name: str
) -> None:
    held = replace(APP, manifest=MANIFESTS[name])
    _hold(evil, held)
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    await _pull(mirror, held)


# Lists.


@pytest.mark.parametrize(
    "links",
    [
        ['</v2/library/app/tags/list?last=b&n=0>; rel="next"'],
        ['</v2/library/app/tags/list>; rel="first"', '</v2/x?last=b&n=2>; rel="next"'],
    ],
    ids=["GHCR leaves the number to itself", "of several links, in fields of their own"],
)
async def test_the_next_page_of_tags_is_there(
    evil: Evil, start_mirror: StartMirror, links: list[str]
) -> None:
    fields = [f"Link: {link}".encode() for link in links]
    evil.on("/tags/list", tells(b'{"tags":["a","b"]}', *fields))
    evil.on("last=b", tells(b'{"tags":["c"]}'))
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    first = await mirror.client.get("/v2/app/tags/list")
    following = first.headers["Link"].partition("<")[2].partition(">")[0]
    second = await mirror.client.get(following.removeprefix(mirror.url))
    assert [json.loads(page.body)["tags"] for page in (first, second)] == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    "answer",
    [
        redirects("http://login.example/signin"),
        tells(b"<title>Sign in</title>", b"Content-Type: text/html"),
        tells(b"{}", b"Content-Type: application/json"),
    ],
    ids=["registry.k8s.io leads to a login", "a page", "nothing in particular"],
)
async def test_who_knows_nothing_of_referrers_is_one_who_says_404(
    evil: Evil, start_mirror: StartMirror, answer: Behaviour
) -> None:
    """Clients turn to the tag then, as they do of themselves (oras-go#633, sigstore-js#1187)."""
    evil.on("/referrers/", answer)
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    path = f"/v2/app/referrers/{APP.digest}"
    assert (await mirror.client.get(path)).status == 404


async def test_a_page_in_place_of_referrers_makes_nobody_forget_them(
    evil: Evil, start_mirror: StartMirror
) -> None:
    known = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    evil.on("/referrers/", tells(known, b"Content-Type: " + OCI_INDEX.encode()))
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, tags={"fresh_for": "0s"})
    path = f"/v2/app/referrers/{APP.digest}"
    assert (await mirror.client.get(path)).body == known
    evil.on("/referrers/", tells(b"<title>Sign in</title>", b"Content-Type: text/html"))
    assert (await mirror.client.get(path)).body == known
