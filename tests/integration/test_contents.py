"""What is in the cache, asked of the API: in pages, in bounds, and for whom."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from mirror.contents.catalog import Catalog
from mirror.contents.images import list_images, list_repositories
from mirror.contents.questions import ListImages, ListRepositories
from mirror.records.sqlite import SqliteRecords
from mirror.storage.index import Index
from tests.conftest import StartMirror
from tests.support.client import get
from tests.support.clock import FakeClock
from tests.support.images import artifact, digest_of, files, image, index, random_layer
from tests.support.mirror import InnerMirror, document, start_inner_mirror, upstream_at
from tests.support.process import until
from tests.support.upstream import ScriptedRegistry


@pytest.fixture
async def mirror(upstream: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[InnerMirror]:
    upstreams = {
        "docker.io": {**upstream_at(upstream.url), "deny": ["not/*"]},
        "private.example": {**upstream_at(upstream.url), "access": "client"},
    }
    settings = document(upstreams, store_root=tmp_path / "store")
    mirror = await start_inner_mirror(settings, FakeClock())
    try:
        yield mirror
    finally:
        await mirror.stop()


def keeper(mirror: InnerMirror) -> dict[str, str]:
    """What only those can show who may read the store."""
    return {"Mirror-Key": (mirror.store_root / "operator-key").read_text()}


async def ask(mirror: InnerMirror, path: str, status: int = 200, **query: str) -> Any:
    url = URL(f"{mirror.admin_url}/api/v1{path}").with_query(query)
    answer = await get(str(url), headers=keeper(mirror))
    assert answer.status == status, answer.body
    return json.loads(answer.body)


async def test_lists_come_in_pages_that_are_the_whole_together(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    one = upstream.add(image(files({"a": b"1"})), "org/app", "b")
    other = upstream.add(image(files({"a": b"2"})), "org/app", "a")
    upstream.add(one, "org/app", "c")
    upstream.add(one, "org/second", "1")
    for name, tag in (("app", "b"), ("app", "a"), ("app", "c"), ("second", "1")):
        assert (await mirror.client.manifest(f"org/{name}", tag)).status == 200
    untagged = upstream.add(image(files({"a": b"3"})), "org/app", "moved")
    assert (await mirror.client.manifest("org/app", untagged.digest)).status == 200
    seen, after = [], ""
    while True:
        page = await ask(mirror, "/images", repository="org/app", limit="1", after=after)
        seen += page["images"]
        if page["after"] is None:
            break
        after = page["after"]
    assert [(it["digest"], it["tags"]) for it in seen] == [
        (other.digest, ["a"]), (one.digest, ["b", "c"]), (untagged.digest, []),
    ]  # fmt: skip
    # What another repository's tag means is in use there, too.
    assert [it["sizes"]["only_here"] > 0 for it in seen] == [True, False, True]
    first = await ask(mirror, "/repositories", limit="1")
    rest = await ask(mirror, "/repositories", limit="1", after=first["after"])
    names = [it["name"] for it in [*first["repositories"], *rest["repositories"]]]
    assert names == ["docker.io/org/app", "docker.io/org/second"]
    found = await ask(mirror, "/repositories", search="second")
    assert [it["name"] for it in found["repositories"]] == names[1:]
    blobs = (await ask(mirror, "/blobs"))["blobs"]
    assert {it["digest"]: it["repositories"] for it in blobs}[one.digest] == 2


async def test_what_is_asked_wrongly_is_refused_in_words(mirror: InnerMirror) -> None:
    for path, query, status in (
        ("/images", {}, 400), ("/images", {"repository": "org/none"}, 404),
        ("/images", {"repository": "A B"}, 404), ("/image", {"image": "org/none:1"}, 404),
        ("/repositories", {"limit": "1001"}, 400), ("/repositories", {"limit": "x"}, 400),
        ("/repositories", {"unknown": "1"}, 400), ("/blobs", {"after": "sha256:1"}, 404),
        ("/layer/files", {"digest": digest_of(b"")}, 404), ("/layer/files", {"digest": "1"}, 404),
    ):  # fmt: skip
        assert (await ask(mirror, path, status, **query))["detail"]
    url = f"{mirror.admin_url}/api/v1/image/compare"
    async with aiohttp.ClientSession(headers=keeper(mirror)) as session:
        assert (await session.get(url)).status == 405
        assert (await session.post(url, json={"image": "elsewhere.example/a:1"})).status == 404
        refused = await session.post(url, json={"image": "not/served:1"})
        assert (refused.status, "not served" in await refused.text()) == (404, True)
        headers = {"Sec-Fetch-Site": "cross-site"}
        answer = await session.post(url, json={"image": "org/app:1"}, headers=headers)
        assert answer.status == 403


async def test_what_is_not_everybodys_is_marked(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    upstream.add(image(files({"a": b"1"})), "org/app", "1")
    assert (await mirror.client.manifest("private.example/org/app", "1")).status == 200
    (one,) = (await ask(mirror, "/repositories"))["repositories"]
    assert (one["name"], one["is_personal"]) == ("private.example/org/app", True)
    assert (await ask(mirror, "/image", image="private.example/org/app:1"))["is_personal"]
    assert (await ask(mirror, "/images", repository="private.example/org/app"))["is_personal"]


async def test_where_content_is_not_everybodys_not_every_user_of_the_host_is_told_of_it(
    upstream: ScriptedRegistry, mirror: InnerMirror, tmp_path: Path
) -> None:
    upstream.add(image(files({"a": b"1"})), "org/app", "1")
    assert (await mirror.client.manifest("private.example/org/app", "1")).status == 200
    api = f"{mirror.admin_url}/api/v1"
    for path in (
        "/repositories", "/images?repository=private.example/org/app", "/blobs",
        "/image?image=private.example/org/app:1", "/image/files?image=private.example/org/app:1",
        "/image/diff?image=org/app:1&other=private.example/org/app:1",
        f"/layer/files?digest={digest_of(b'')}",
    ):  # fmt: skip
        refused = await get(f"{api}{path}")
        assert (refused.status, b"admin.token_file" in refused.body) == (403, True), path
        assert (await get(f"{api}{path}", headers={"Mirror-Key": "guess"})).status == 403
    page = await get(f"{mirror.admin_url}/page/images")
    assert b"This is not shown here" in page.body
    assert b"private.example/org" not in page.body
    async with aiohttp.ClientSession() as session:
        asked = await session.post(f"{api}/image/compare", json={"image": "private.example/a:1"})
        assert asked.status == 403


async def test_where_all_of_it_is_everybodys_it_is_told_without_a_key(
    start_mirror: StartMirror, upstream: ScriptedRegistry
) -> None:
    mirror = await start_mirror()
    assert (await get(f"{mirror.admin_url}/api/v1/repositories")).status == 200


async def test_what_a_repository_has_not_been_sent_is_not_shown_by_its_name(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    """Else what is somebody's would be shown as everybody's."""
    app = upstream.add(image(files({"a": b"1"})), "org/app", "1")
    assert (await mirror.client.manifest("private.example/org/app", "1")).status == 200
    both = upstream.add(index(app), "org/index", "1")
    assert (await mirror.client.manifest("org/index", "1")).status == 200
    for name, status in (
        ("private.example/org/app", 200), ("org/none", 404), ("org/index", 404),
    ):  # fmt: skip
        told = await ask(mirror, "/image", status, image=f"{name}@{app.digest}")
        assert told.get("is_personal", True), name
    assert (await ask(mirror, "/image", image=f"org/index@{both.digest}"))["name"]


async def test_looking_makes_nothing_worth_more(
    upstream: ScriptedRegistry, mirror: InnerMirror, tmp_path: Path
) -> None:
    app = upstream.add(image(files({"a": b"1"})), "org/app", "1")
    await mirror.client.manifest("org/app", "1")
    for digest in app.blobs:
        await mirror.client.blob("org/app", digest)
    await until(lambda: _is_whole(mirror))
    before = _accesses(tmp_path)
    assert (await ask(mirror, "/image", image="org/app:1"))["layers"]
    assert (await ask(mirror, "/image/files", image="org/app:1"))["files"]
    await mirror.stop()
    after = _accesses(tmp_path)
    assert before.keys() == after.keys()
    assert after[app.config] == before[app.config]


async def _is_whole(mirror: InnerMirror) -> bool:
    (one,) = (await ask(mirror, "/repositories"))["repositories"]
    return bool(one["sizes"]["blobs"] == 3)


def _accesses(tmp_path: Path) -> dict[str, float]:
    with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite3")) as connection:
        rows = connection.execute("SELECT digest, score FROM blobs").fetchall()
    return {f"sha256:{digest[1:].hex()}": score for digest, score in rows}


async def test_upstreams_lists_of_what_refers_to_an_image_are_told(
    upstream: ScriptedRegistry, mirror: InnerMirror
) -> None:
    member = image(random_layer(10, seed=1))
    app = upstream.add(index(member), "org/app", "1")
    signature = upstream.add(artifact(b"signed", subject=app), "org/app", "signature")
    await mirror.client.manifest("org/app", "1")
    await mirror.client.get(f"/v2/org/app/referrers/{app.digest}")
    (told,) = (await ask(mirror, "/image", image="org/app:1"))["referrers"]
    assert (told["digest"], told["source"]) == (signature.digest, "referrers")
    assert told["kind"] == "application/vnd.example.signature"


async def test_many_repositories_are_listed_by_indexes_alone(tmp_path: Path) -> None:
    """20,000 repositories, 200,000 links: a page looks at its own, and not at all of them."""
    async with (
        SqliteRecords.open(tmp_path / "records.sqlite3", clock=lambda: 1.0),
        Index.open(tmp_path / "index.sqlite3"),
        Catalog.open(tmp_path) as catalog,
    ):
        _fill(tmp_path)
        steps = [0]

        def count() -> int:
            steps[0] += 1
            return 0

        def looked(connection: sqlite3.Connection) -> int:
            connection.set_progress_handler(count, 1000)
            page = list_repositories(ListRepositories(limit=100, after="docker.io/app10"), ())
            found = page(connection)
            assert len(found.repositories) == 100
            assert found.repositories[0].sizes.blobs == 10
            assert found.repositories[0].sizes.only_here == 9 * 7
            list_images("docker.io/app100", ListImages(repository=""), None, is_personal=False)(
                connection
            )
            return steps[0]

        # Thousands of SQLite's steps: all of the table would be some ten thousand.
        assert await catalog.look(looked) < 300


def _fill(root: Path) -> None:
    repositories, links = 20_000, 10

    def digest(number: int) -> bytes:
        return b"\x01" + number.to_bytes(32, "big")

    with closing(sqlite3.connect(root / "records.sqlite3")) as connection, connection:
        many = connection.executemany
        connection.execute("INSERT INTO upstreams (id, name) VALUES (1, 'docker.io')")
        numbers = range(1, repositories + 1)
        many(
            "INSERT INTO repositories (id, upstream, path) VALUES (?, 1, ?)",
            ((it, f"docker.io/app{it}") for it in numbers),
        )
        own = [(it, (it - 1) * (links - 1) + at) for it in numbers for at in range(1, links)]
        base = repositories * links + 1
        digests = [*(number for _, number in own), base]
        many("INSERT INTO digests VALUES (?, ?, 0)", ((it, digest(it)) for it in digests))
        many("INSERT INTO links VALUES (?, ?, 7, 1)", [*own, *((it, base) for it in numbers)])
    with closing(sqlite3.connect(root / "index.sqlite3")) as connection, connection:
        connection.create_function("asked", -1, lambda *_: 0.0)
        connection.create_function("rank", -1, lambda *_: 0.0)
        connection.executemany(
            "INSERT INTO blobs (digest, size, is_manifest, accessed_at) VALUES (?, 7, 0, 1)",
            ((digest(it),) for it in digests),
        )


@pytest.mark.parametrize(
    "view",
    ["now", "history", "images", "pulls", "waste", "endpoints", "store", "setup", "image", "files"],
)
async def test_every_view_is_made_without_holding_anybody_up(
    upstream: ScriptedRegistry, mirror: InnerMirror, view: str
) -> None:
    upstream.add(image(files({"a": b"1"})), "org/app", "1")
    await mirror.client.manifest("org/app", "1")
    asked = f"{mirror.admin_url}/page/{view}?image=org/app:1"
    answer = await get(asked, headers=keeper(mirror))
    assert answer.status == 200
    assert b"<h1>" in answer.body
