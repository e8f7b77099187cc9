"""Tags, referrers, and what is cached."""

import json
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import OCI_INDEX, Image, artifact, digest_of, image, random_layer
from tests.support.mirror import upstream_at
from tests.support.upstream import ScriptedRegistry

TAGS = ["1", "2", "3", "4", "5"]


@pytest.fixture
def tagged(upstream: ScriptedRegistry) -> ScriptedRegistry:
    for number, tag in enumerate(TAGS):
        upstream.add(image(random_layer(10, seed=number)), "library/app", tag)
    return upstream


def document(answer: Any) -> Any:
    return json.loads(answer.body)


async def test_tags_are_upstreams(tagged: ScriptedRegistry, start_mirror: StartMirror) -> None:
    mirror = await start_mirror()
    answer = await mirror.client.get("/v2/app/tags/list")
    assert tagged.questions() == [("tags", "GET", "")]
    assert tagged.requests[0].target == "/v2/library/app/tags/list"
    assert document(answer) == {"name": "app", "tags": TAGS}
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss"
    assert "Link" not in answer.headers


@pytest.mark.parametrize("mode", ["pages", "small pages", "no paging"])
@pytest.mark.parametrize("prefix", ["/v2/docker.io/app", "/v2/library/app"])
async def test_following_the_links_leads_through_all_tags(
    tagged: ScriptedRegistry, start_mirror: StartMirror, mode: str, prefix: str
) -> None:
    tagged.max_page = 1 if mode == "small pages" else None
    tagged.ignores_pagination = mode == "no paging"
    mirror = await start_mirror()
    target, seen = f"{prefix}/tags/list?n=2&ns=docker.io", list[str]()
    if prefix.startswith("/v2/docker.io"):
        target = target.removesuffix("&ns=docker.io")
    for _ in TAGS:
        answer = await mirror.client.get(target)
        seen += document(answer)["tags"]
        link = answer.headers.get("Link")
        if link is None:
            break
        target, _, rest = link.removeprefix("<").partition(">")
        assert rest == '; rel="next"'
        assert target.startswith(f"{prefix}/tags/list?")  # ours, not upstream's
        assert ("ns=docker.io" in target) == (prefix == "/v2/library/app")
    assert seen == TAGS


async def test_no_tags_were_asked_for_and_none_are_sent(
    tagged: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror()
    answer = await mirror.client.get("/v2/app/tags/list?n=0")
    assert document(answer)["tags"] == []
    assert "Link" not in answer.headers


async def test_what_a_registry_puts_into_its_link_comes_back_to_it(
    tagged: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """Quay pages by a `next_page` of its own."""
    link = '</v2/library/app/tags/list?n=2&next_page=gAAAA%2Bx%3D%3D>; rel="next"'
    tagged.fault(kind="tags", headers={"Link": link}, times=1)
    mirror = await start_mirror()
    answer = await mirror.client.get("/v2/app/tags/list?n=2")
    target = answer.headers["Link"].removeprefix("<").partition(">")[0]
    await mirror.client.get(target)
    assert parse_qs(tagged.requests[1].query) == {"n": ["2"], "next_page": ["gAAAA+x=="]}


async def test_cached_tags_are_told_while_upstream_cannot_be_asked(
    tagged: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror()
    for tag in ("4", "2"):
        await mirror.client.manifest("app", tag)
    await tagged.stop()
    answer = await mirror.client.get("/v2/app/tags/list")
    assert document(answer) == {"name": "app", "tags": ["2", "4"]}
    assert answer.headers["Cache-Status"] == "mirror; hit; detail=stale"
    assert answer.headers["Warning"] == '299 - "served from cache; upstream could not be asked"'
    page = await mirror.client.get("/v2/app/tags/list?n=1")
    assert document(page)["tags"] == ["2"]
    assert page.headers["Link"] == '</v2/app/tags/list?n=1&last=2>; rel="next"'


async def test_tags_of_which_none_is_cached_cannot_be_told(
    tagged: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror()
    await tagged.stop()
    assert (await mirror.client.get("/v2/app/tags/list")).status == 502


@pytest.mark.parametrize(("status", "told"), [(403, 403), (404, 404)])
async def test_an_answer_of_upstream_is_no_outage(
    tagged: ScriptedRegistry, start_mirror: StartMirror, status: int, told: int
) -> None:
    mirror = await start_mirror()
    await mirror.client.manifest("app", "1")
    tagged.fault(kind="tags", status=status)
    assert (await mirror.client.get("/v2/app/tags/list")).status == told


@pytest.mark.parametrize("kind", ["tags/list", "referrers"])
async def test_a_registry_that_knows_no_such_request_has_not_answered_it(
    tagged: ScriptedRegistry, start_mirror: StartMirror, kind: str
) -> None:
    subject = tagged.add(image(random_layer(10, seed=1)), "library/app")
    target = f"/v2/app/{kind}" + (f"/{subject.digest}" if kind == "referrers" else "")
    refusal = tagged.fault(status=405, times=1)
    mirror = await start_mirror()
    answer = await mirror.client.get(target)
    assert refusal.struck
    assert answer.status == 405
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; detail=error"
    if answer.status == 502:  # and so it was no answer
        assert (await mirror.client.get(target)).status == 200


async def test_a_repository_without_tags_has_an_empty_list(
    tagged: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """docker-registry says so by null."""
    tagged.fault(kind="tags", body=b'{"name": "library/app", "tags": null}')
    mirror = await start_mirror()
    answer = await mirror.client.get("/v2/app/tags/list")
    assert (answer.status, document(answer)) == (200, {"name": "app", "tags": []})


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b'{"tags": 5}', b"", b"{}", b'{"name": "library/app"}', b'{"errors": []}'],
)
async def test_a_list_that_makes_no_sense_is_an_outage(
    tagged: ScriptedRegistry, start_mirror: StartMirror, body: bytes
) -> None:
    tagged.fault(kind="tags", body=body)
    mirror = await start_mirror()
    assert (await mirror.client.get("/v2/app/tags/list")).status == 502


# Referrers


async def test_referrers_are_upstreams_and_remembered_like_a_tag(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    signature = upstream.add(artifact(b"signature", subject=subject), "library/app")
    mirror = await start_mirror()
    target = f"/v2/app/referrers/{subject.digest}"
    answer = await mirror.client.get(target)
    again = await mirror.client.get(target)
    assert upstream.questions() == [("referrers", "GET", subject.digest)]
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.body == again.body
    assert [entry["digest"] for entry in document(answer)["manifests"]] == [signature.digest]
    assert answer.headers["Cache-Status"] == "mirror; fwd=miss; stored"
    assert again.headers["Cache-Status"] == "mirror; hit"
    clock.advance(60)
    await mirror.client.get(target)
    assert len(upstream.requests) == 2


def referring(subject: Image, upstream: ScriptedRegistry, *kinds: str) -> list[str]:
    """Artifacts of these types that refer to `subject`; their digests."""
    made = [artifact(kind.encode(), subject=subject, artifact_type=kind) for kind in kinds]
    return [upstream.add(it, "library/app").digest for it in made]


def listed(answer: Any) -> list[str]:
    return [entry["digest"] for entry in document(answer)["manifests"]]


async def test_a_filter_is_applied_here_to_the_one_list_that_is_kept(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    first, second = referring(subject, upstream, "a/b+c", "a/d")
    mirror = await start_mirror()
    target = f"/v2/app/referrers/{subject.digest}"
    filtered = await mirror.client.get(f"{target}?artifactType=a%2Fb%2Bc")
    nothing = await mirror.client.get(f"{target}?artifactType=a/b")
    plain = await mirror.client.get(target)
    everything = await mirror.client.get(f"{target}?artifactType=")
    assert upstream.questions() == [("referrers", "GET", subject.digest)]
    assert upstream.requests[0].query == ""
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert "OCI-Filters-Applied" not in plain.headers
    assert listed(filtered) == [first]
    assert document(filtered)["mediaType"] == OCI_INDEX
    assert listed(nothing) == []
    assert listed(plain) == listed(everything) == [first, second]


async def test_a_thousand_filters_cost_one_question_and_the_room_of_one_list(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    referring(subject, upstream, *(f"kind/{number}" for number in range(200)))
    mirror = await start_mirror()
    for number in range(1_000):
        target = f"/v2/app/referrers/{subject.digest}?artifactType=kind/{number}"
        answer = await mirror.client.get(target)
        assert len(listed(answer)) == (number < 200)
    assert len(upstream.requests) == 1
    files = mirror.store_root.glob("records.sqlite3*")
    assert sum(file.stat().st_size for file in files) < 2**20


@pytest.mark.parametrize("query", ["page=2", "n=1&last=abc", "artifactType=a%2Fb&next_page=gA%3D"])
@pytest.mark.parametrize("where", ["/v2/library/app", "", "http://elsewhere.example"])
async def test_referrers_that_come_in_pages_are_all_told_at_once(
    upstream: ScriptedRegistry, start_mirror: StartMirror, query: str, where: str
) -> None:
    """Zot and Harbor page; the address in a Link is never dialled, its query is sent back."""
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    pages = [[{"mediaType": "a/b", "digest": f"sha256:{n:064}", "size": n}] for n in (1, 2)]
    link = {"Link": f'<{where}/v2/library/app/referrers/{subject.digest}?{query}>; rel="next"'}
    for is_second, found in enumerate(pages):
        upstream.fault(
            kind="referrers",
            where=lambda asked, wanted=bool(is_second): (asked.query == query) is wanted,
            body=json.dumps(
                {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
            ).encode(),
            headers={} if is_second else link,
        )
    mirror = await start_mirror()
    target = f"/v2/app/referrers/{subject.digest}"
    answer = await mirror.client.get(target)
    assert document(answer)["manifests"] == pages[0] + pages[1]
    assert "Link" not in answer.headers
    assert (await mirror.client.get(target)).headers["Cache-Status"] == "mirror; hit"
    assert [asked.query for asked in upstream.requests] == ["", query]


async def test_more_referrers_than_one_answer_holds_are_told_page_by_page(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    upstream.has_referrers = True
    digests = [f"sha256:{number:064}" for number in range(7)]
    for number, digest in enumerate(digests):
        entry = {"mediaType": "a/b", "digest": digest, "size": 1, "artifactType": "a/b"}
        more = [{**entry, "digest": f"sha256:{'a' * 64}", "artifactType": "x" * 2**20}]
        following = f'</v2/library/app/referrers/{subject.digest}?token={number + 1}>; rel="next"'
        upstream.fault(
            kind="referrers",
            where=lambda asked, wanted=f"token={number}" if number else "": asked.query == wanted,
            body=json.dumps({"schemaVersion": 2, "manifests": [entry, *more]}).encode(),
            headers={"Link": following} if number < 6 else {},
        )
    mirror = await start_mirror()
    target, found, answers = (
        f"/v2/app/referrers/{subject.digest}?artifactType=a/b&ns=docker.io",
        [],
        0,
    )
    while target:
        answer = await mirror.client.get(target)
        found += listed(answer)
        answers += 1
        target = answer.headers.get("Link", "<>").removeprefix("<").partition(">")[0]
        assert not target or target.startswith(f"/v2/app/referrers/{subject.digest}?token=")
        assert answer.headers["Cache-Status"] == "mirror; fwd=miss"
    assert found == digests
    assert answers == 3


@pytest.mark.parametrize("query", ["", "?token=1"])
async def test_pages_of_referrers_that_lead_nowhere_are_an_outage(
    upstream: ScriptedRegistry, start_mirror: StartMirror, query: str
) -> None:
    """Half a list of signatures is worse than none: what is missing looks like unsigned."""
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    link = f'</v2/library/app/referrers/{subject.digest}{query}>; rel="next"'
    upstream.fault(kind="referrers", headers={"Link": link}, times=2)
    mirror = await start_mirror()
    target = f"/v2/app/referrers/{subject.digest}"
    assert (await mirror.client.get(target)).status == 502
    assert (await mirror.client.get(target)).status == 200


async def test_a_page_of_referrers_that_is_gone_is_not_a_registry_without_referrers(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    link = f'</v2/library/app/referrers/{subject.digest}?token=1>; rel="next"'
    upstream.fault(kind="referrers", headers={"Link": link}, where=lambda it: not it.query)
    upstream.fault(kind="referrers", status=404, where=lambda it: bool(it.query))
    mirror = await start_mirror()
    assert (await mirror.client.get(f"/v2/app/referrers/{subject.digest}")).status == 502


async def test_a_registry_without_referrers_stays_one(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    """404 sends a client to the tag that stands in for the list."""
    upstream.has_referrers = False
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    mirror = await start_mirror()
    for _ in range(2):
        assert (await mirror.client.get(f"/v2/app/referrers/{subject.digest}")).status == 404
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"manifests": [{}]}', b'{"errors": []}'])
async def test_a_list_of_referrers_that_makes_no_sense_is_an_outage(
    upstream: ScriptedRegistry, start_mirror: StartMirror, body: bytes
) -> None:
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    upstream.fault(kind="referrers", body=body, times=1)
    mirror = await start_mirror()
    target = f"/v2/app/referrers/{subject.digest}"
    assert (await mirror.client.get(target)).status == 502
    assert (await mirror.client.get(target)).status == 200


async def test_remembered_referrers_are_told_while_upstream_cannot_be_asked(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    subject = upstream.add(image(random_layer(10, seed=1)), "library/app", "1")
    mirror = await start_mirror()
    target = f"/v2/app/referrers/{subject.digest}"
    fresh = await mirror.client.get(target)
    await upstream.stop()
    clock.advance(60)
    stale = await mirror.client.get(target)
    assert stale.body == fresh.body
    assert stale.headers["Cache-Status"] == "mirror; hit; detail=stale"
    assert "Warning" in stale.headers
    clock.advance(31 * 86400)
    assert (await mirror.client.get(target)).status == 502
    unknown = f"/v2/app/referrers/{digest_of(b'unknown')}"
    assert (await mirror.client.get(unknown)).status == 502


# What is cached


async def test_the_catalog_tells_what_is_cached_page_by_page(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    names = ["a/b", "a/c", "z/y"]
    for name in names:
        upstream.add(image(random_layer(10, seed=1)), name, "1")
    mirror = await start_mirror()
    assert document(await mirror.client.get("/v2/_catalog")) == {"repositories": []}
    for name in reversed(names):
        await mirror.client.manifest(name, "1")
    upstream.forget()
    everything = await mirror.client.get("/v2/_catalog")
    first = await mirror.client.get("/v2/_catalog?n=2")
    target = first.headers["Link"].removeprefix("<").partition(">")[0]
    second = await mirror.client.get(target)
    assert upstream.questions() == []
    listed = [f"docker.io/{name}" for name in names]  # names that can be pulled as they stand
    assert document(everything)["repositories"] == listed
    assert "Link" not in everything.headers
    assert document(first)["repositories"] == listed[:2]
    assert document(second)["repositories"] == listed[2:]
    assert "Link" not in second.headers
    assert (await mirror.client.manifest(listed[0], "1")).headers["Cache-Status"] == "mirror; hit"


async def test_the_catalog_does_not_tell_of_what_clients_have_with_their_own_authorization(
    upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(image(random_layer(10, seed=1)), "org/secret", "1")
    upstream.add(image(random_layer(10, seed=1)), "org/public", "1")
    mirror = await start_mirror(
        {
            "docker.io": upstream_at(upstream.url),
            "ghcr.io": {**upstream_at(upstream.url), "access": "client"},
        }
    )
    await mirror.client.manifest("org/public", "1")
    assert (await mirror.client.manifest("ghcr.io/org/secret", "1")).status == 200
    answer = await mirror.client.get("/v2/_catalog")
    assert document(answer) == {"repositories": ["docker.io/org/public"]}


async def test_the_catalog_is_empty_where_none_was_asked_for(start_mirror: StartMirror) -> None:
    mirror = await start_mirror()
    answer = await mirror.client.get("/v2/_catalog?n=0")
    assert (answer.status, document(answer)) == (200, {"repositories": []})
