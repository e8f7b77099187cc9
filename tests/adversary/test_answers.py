"""Nothing that an upstream answers does more than fail the one request that it answers."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.conftest import StartMirror
from tests.support.evil import Ask, Evil, drips, says
from tests.support.images import OCI_MANIFEST, image, random_layer
from tests.support.mirror import InnerMirror, upstream_at
from tests.support.upstream import ScriptedRegistry

APP = image(random_layer(2_000, seed=51))
[LAYER] = APP.layers

FILL = {"attempts": 1, "stall_timeout": "300ms"}
QUESTIONS = (
    ("GET", "/v2/app/manifests/1"),
    ("HEAD", f"/v2/app/manifests/{APP.digest}"),
    ("GET", f"/v2/app/manifests/{APP.digest}"),
    ("HEAD", f"/v2/app/blobs/{LAYER}"),
    ("GET", f"/v2/app/blobs/{LAYER}"),
    ("GET", "/v2/app/tags/list"),
    ("GET", "/v2/app/tags/list?n=1"),
    ("GET", f"/v2/app/referrers/{APP.digest}"),
)
STATUSES = tuple(
    b"HTTP/1.1 " + status
    for status in (
        b"200 OK", b"400 Bad", b"206 Part", b"301 Moved", b"304 Same", b"307 There", b"401 Who",
        b"403 No", b"404 None", b"405 How", b"416 Range", b"429 Slow", b"500 Oh", b"503 Busy",
        b"999 Odd",
    )
)  # fmt: skip
DIGITS = b"9" * 5000
FIELDS = (
    b"ratelimit-remaining: " + b"9" * 400,
    b"ratelimit-remaining: " + DIGITS,
    b"ratelimit-limit: \xc2\xb2;w=\xff",
    b"Link: <http://[>; rel=next",
    b'Link: <http://x:99999999/?n=1>; rel="next"',
    b"Link: </?n=\xff\xfe&last=%ff>; rel=next",
    b"Link: " + b"<>;" * 2500,
    b"Link: " + b"<" * 8000,
    b"Retry-After: Mon, 01 Jan 100000000000000000000 00:00:00 GMT",
    b"Retry-After: " + DIGITS,
    b"Retry-After: \xd9\xa3",
    b"Date: " + DIGITS,
    b"Location: http://127.0.0.1:99999999/",
    b"Location: http://[",
    b"Location: http://\xff\xfe/",
    b"Location: //",
    b"Docker-Content-Digest: sha256:\xff",
    b"Content-Type: text/\x01html",
    b"Content-Type: \xff\xfe",
    b"Content-Type: " + b"a" * 8000,
    b'WWW-Authenticate: Bearer realm="http://xn--example-9ua.com/"',
    b'WWW-Authenticate: Bearer realm="http://127.0.0.1:99999999/",service="\xff"',
    b'WWW-Authenticate: Bearer realm="http://[',
    b"WWW-Authenticate: Basic \x01\x7f\xff",
    b"WWW-Authenticate: " + b'a="' * 2500,
    b"Content-Length: " + DIGITS,
    b"Content-Length: 18446744073709551615",
    b"Content-Length: 9223372036854775808",
    b"Content-Length: -1",
    b"Content-Range: bytes 0-9999999999999999998/9999999999999999999",
    b"Content-Range: bytes */9999999999999999999",
    b"Content-Range: bytes 5-1/\xff",
    b"Transfer-Encoding: chunked",
    b"Content-Encoding: gzip",
    b"OCI-Filters-Applied: \xff",
    b"No colon at all",
    b"\x00: \x00",
)  # fmt: skip
BODIES = (
    b"",
    b"{}",
    b"\xff\xfe\x00",
    b"[" * 200_000,
    b'{"tags":' * 100_000,
    b'{"tags":["\\ud800","a\\u0000b",{"a":[]},7,null,"good"]}',
    b'{"tags":' + DIGITS + b"}",
    b'{"tags":1e999,"token":"a","expires_in":1e999}',
    b'{"token":"a","expires_in":' + b"9" * 400 + b"}",
    b'{"token":"a","expires_in":NaN}',
    b'{"token":"\\ud800"}',
    b'{"schemaVersion":2,"manifests":[{"size":1e999,"digest":[[]]}]}',
    b'{"schemaVersion":2,"layers":[{"size":-1,"digest":"sha256:\\ud800"}]}',
    b'{"errors":[{"code":"NAME_INVALID","message":"\\ud800","detail":"\\udfff"}]}',
    b'{"errors":[{"code":"NAME_INVALID","message":"m","detail":1' + b"0" * 30 + b"}]}",
    b'{"errors":[{"code":"NAME_INVALID","message":[],"detail":-18446744073709551616}]}',
)

Mirror = tuple[InnerMirror, Evil]


@pytest.fixture
async def evil() -> AsyncIterator[Evil]:
    async with Evil() as upstream:
        yield upstream


async def _ask_everything(mirror: InnerMirror, why: object) -> None:
    for method, target in QUESTIONS:
        answer = (
            await mirror.client.head(target) if method == "HEAD" else await _get(mirror, target)
        )
        assert answer != 500, (method, target, why)


async def _get(mirror: InnerMirror, target: str) -> int:
    async with mirror.client.open(target, headers={"Accept": OCI_MANIFEST}) as response:
        return response.status


async def _has_no_fault(mirror: InnerMirror) -> bool:
    return await mirror.metric("mirror_internal_errors_total") == 0


@pytest.mark.parametrize("field", FIELDS, ids=range(len(FIELDS)))
async def test_no_header_field_is_more_than_an_answer_that_makes_no_sense(
    evil: Evil, start_mirror: StartMirror, field: bytes
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, fill=FILL)
    for status in STATUSES:
        length = () if b"Length" in field or b"chunked" in field else (b"Content-Length: 2",)
        evil.on("/v2/", says(status, field, *length, b"Connection: close", body=b"{}"))
        await _ask_everything(mirror, status)
    assert await _has_no_fault(mirror)


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
async def test_no_body_is_more_than_an_answer_that_makes_no_sense(
    evil: Evil, start_mirror: StartMirror, body: bytes
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, fill=FILL)
    challenge = b'WWW-Authenticate: Bearer realm="%b/token"' % evil.url.encode()
    for status in STATUSES:
        length = b"Content-Length: %d" % len(body)
        evil.on("", says(STATUSES[0], length, body=body))
        evil.on("/v2/", says(status, length, challenge, body=body))
        await _ask_everything(mirror, status)
    assert await _has_no_fault(mirror)


@pytest.mark.parametrize(
    "field",
    [
        *(
            b"WWW-Authenticate: " + (piece * 60_000)[:60_000]
            for piece in (b"a ", b"Mon, ", b'a="b",')
        ),
        b'WWW-Authenticate: Bearer realm="http://' + "ü.".encode() * 2_000 + b'/"',
        b'WWW-Authenticate: Bearer realm="http://' + b"a." * 2_000 + b'/"',
        b"Location: http://" + "ü.".encode() * 20_000 + b"/",
        b"Location: //" + b"a." * 30_000 + b"/",
        b"Location: http:/\t/" + "é".encode() * 30_000 + b"/",
    ],
    ids=range(8),
)
async def test_a_field_of_64_kib_holds_up_nobody_and_is_told_to_nobody(
    evil: Evil, start_mirror: StartMirror, field: bytes
) -> None:
    hub = upstream_at(evil.url) | {"access": "client", "hosts": ["hub.mirror.example"]}
    mirror = await start_mirror({"docker.io": hub}, fill=FILL)
    status = b"307 There" if field.startswith(b"Location") else b"401 Who"
    evil.on("/v2/", says(b"HTTP/1.1 " + status, *[field] * 4, b"Content-Length: 0"))
    for target, host in (("/v2/app/manifests/1", mirror.host), ("/v2/", "hub.mirror.example")):
        answer = await mirror.client.get(target, headers={"Host": host})
        assert answer.status in {401, 403, 502}
        assert len(answer.body) < 1000
        assert len(str(answer.headers)) < 40_000


@pytest.mark.parametrize("seed", range(10))
async def test_answers_at_random_fail_what_they_answer_and_nothing_more(
    evil: Evil, start_mirror: StartMirror, seed: int
) -> None:
    dice = Random(seed)  # noqa: S311 - to be the same each time
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, fill=FILL)
    for _ in range(12):
        body = dice.choice(BODIES)
        fields = dice.sample(FIELDS, dice.randint(1, 5))
        if dice.random() < 0.7:
            fields = [*(f for f in fields if b"Length" not in f), b"Content-Length: %d" % len(body)]
        evil.on("", says(dice.choice(STATUSES), *fields, b"Connection: close", body=body))
        await _ask_everything(mirror, fields)
    assert await _has_no_fault(mirror)


async def test_the_next_endpoint_is_asked_whatever_the_first_one_answers(
    evil: Evil, upstream: ScriptedRegistry, start_mirror: StartMirror
) -> None:
    upstream.add(APP, "library/app", "1")
    mirror = await start_mirror({"docker.io": upstream_at(evil.url, upstream.url)})
    for field, status in itertools.product(FIELDS[:12], (b"429 Slow", b"200 OK")):
        evil.on("", says(b"HTTP/1.1 " + status, field, b"Content-Length: 2", body=b"{}"))
        answer = await mirror.client.manifest("app", APP.digest)
        assert (answer.status, answer.digest) == (200, APP.digest)
        assert (await mirror.client.get("/v2/app/tags/list?n=5")).status == 200
    assert (await mirror.client.blob("app", LAYER)).digest == LAYER


async def test_an_answer_that_makes_no_sense_leaves_the_endpoint_up(
    evil: Evil, start_mirror: StartMirror
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    for field in (b"Content-Length: " + DIGITS, b"Location: http://127.0.0.1:99999999/"):
        evil.on("/v2/", says(b"HTTP/1.1 307 There", field))
        for number in range(5):
            assert (await mirror.client.manifest("app", f"tag{number}")).status == 502
    assert await mirror.metric("mirror_upstream_up") == 1


async def test_what_is_no_field_value_is_not_handed_on(
    evil: Evil, start_mirror: StartMirror
) -> None:
    hub = upstream_at(evil.url) | {"access": "client"}
    mirror = await start_mirror({"docker.io": hub})
    length = b"Content-Length: %d" % len(APP.manifest)
    for bad in (b"\x01", b"\x7f", b"\xff"):
        evil.on("/v2/", says(STATUSES[0], length, b"Content-Type: a/b" + bad, body=APP.manifest))
        answer = await mirror.client.manifest("app", APP.digest)
        assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_MANIFEST)
        challenge = b'WWW-Authenticate: Bearer realm="a%b"' % bad
        evil.on("/v2/", says(b"HTTP/1.1 401 Who", challenge, b"Content-Length: 0"))
        answer = await mirror.client.manifest("other", "1")
        assert answer.status in {401, 403}
        assert "WWW-Authenticate" not in answer.headers


async def test_only_tags_are_listed_as_tags(evil: Evil, start_mirror: StartMirror) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    body = BODIES[5]
    evil.on("/v2/", says(STATUSES[0], b"Content-Length: %d" % len(body), body=body))
    answer = await mirror.client.get("/v2/app/tags/list")
    assert answer.status == 200
    assert b"good" in answer.body
    assert b"ud800" not in answer.body


@pytest.mark.parametrize("life", [b"1e999", b"9" * 400, b"NaN", b"-5", b"0", b'"x"', b"[]"])
async def test_a_token_of_any_life_is_used_for_as_long_as_tokens_live(
    evil: Evil, start_mirror: StartMirror, life: bytes
) -> None:
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    token = b'{"token":"t","expires_in":%b}' % life
    evil.on("/token", says(STATUSES[0], b"Content-Length: %d" % len(token), body=token))
    challenge = b'WWW-Authenticate: Bearer realm="%b/token"' % evil.url.encode()

    async def wants_a_token(ask: Ask) -> None:
        status = b"404 None" if "Authorization: Bearer t\r\n" in ask.head else b"401 Who"
        await says(b"HTTP/1.1 " + status, challenge, b"Content-Length: 0")(ask)

    evil.on("/v2/", wants_a_token)
    for tag in ("1", "2"):
        assert (await mirror.client.manifest("app", tag)).status == 404
    assert len([line for line in evil.asked if "/token" in line]) == 1


@pytest.mark.parametrize("length", [(), (b"Content-Length: 10",)])
async def test_nobody_waits_for_the_end_of_a_redirect(
    evil: Evil, start_mirror: StartMirror, length: tuple[bytes, ...]
) -> None:
    """Its body never comes, and `stall_timeout` is for those who have begun to send a blob."""
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, fill={"stall_timeout": "1h"})
    size = b"Content-Length: %d" % len(APP.manifest)
    evil.on("/elsewhere", says(STATUSES[0], size, body=APP.manifest))
    evil.on("/v2/", says(b"HTTP/1.1 307 There", b"Location: /elsewhere", *length))
    async with asyncio.timeout(30):
        assert (await mirror.client.manifest("app", APP.digest)).digest == APP.digest


@pytest.mark.parametrize("target", ["manifests/1", f"manifests/{APP.digest}", "tags/list"])
@pytest.mark.parametrize("who", ["registry", "token server"])
async def test_nobody_waits_for_an_answer_that_drips(
    evil: Evil, start_mirror: StartMirror, who: str, target: str
) -> None:
    """Each byte comes in time, and all of them would take an hour."""
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)}, fill=FILL)
    evil.on("/token" if who == "token server" else "/v2/", drips(b" " * 36_000, every=0.1))
    if who == "token server":
        challenge = b'WWW-Authenticate: Bearer realm="%b/token"' % evil.url.encode()
        evil.on("/v2/", says(b"HTTP/1.1 401 Who", challenge, b"Content-Length: 0"))
    async with asyncio.timeout(15):
        assert await _get(mirror, f"/v2/app/{target}") in {502, 504}


async def test_what_upstream_says_of_a_refusal_is_passed_on_in_any_language(
    evil: Evil, start_mirror: StartMirror
) -> None:
    """Alibaba's registries speak Chinese."""
    mirror = await start_mirror({"docker.io": upstream_at(evil.url)})
    told = {"code": "NAME_INVALID", "message": "仓库名\x1b[2J", "detail": "名\ud800字"}
    body = json.dumps({"errors": [told]}).encode()
    evil.on("/v2/", says(b"HTTP/1.1 400 No", b"Content-Length: %d" % len(body), body=body))
    answer = await mirror.client.get("/v2/app/manifests/1")
    assert answer.status == 400
    assert json.loads(answer.body)["errors"] == [
        {"code": "NAME_INVALID", "message": "仓库名 [2J", "detail": "名 字"}
    ]
