"""What becomes of an upload where a registry has ways of its own, or a line breaks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from mirror.oci.digest import digest_of
from mirror.oci.errors import Denied, DigestMismatch, Missing, Refused, Unavailable
from mirror.oci.reference import Repository, Tag
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.sources.targets import Standing, Target
from tests.conformance.target import CONTENT, DIGEST, begun, pieces, push
from tests.support.auth import ACR_SERVICE, BearerAuth
from tests.support.edge import registry_at
from tests.support.images import image, random_bytes, random_layer
from tests.support.process import until
from tests.support.relay import Relay
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry

APP = Repository("hub", "app")
impatient = pytest.mark.parametrize("registry", [1], indirect=True, ids=[""])
LARGE = random_bytes(12 << 20, seed=83)


@pytest.fixture
async def registry(
    upstream: ScriptedRegistry, request: pytest.FixtureRequest
) -> AsyncIterator[Registry]:
    """Its stall timeout is long, or what an indirect parameter of the test says."""
    upstream.push = Pushes(style="3")
    async with registry_at(upstream.url, stall_timeout=getattr(request, "param", 30)) as registry:
        yield registry


@pytest.fixture
def target(registry: Registry) -> Target:
    return registry.target(APP)


def ways(upstream: ScriptedRegistry) -> Pushes:
    assert upstream.push is not None
    return upstream.push


async def send(target: Target, at: Standing, content: bytes, *, chunked: bool = False) -> Standing:
    """Send the rest of a blob, as a forwarder does that knows all of it, until it is through."""
    for _ in range(20):
        if at.offset == len(content):
            break
        rest = content[at.offset :]
        try:
            at = await target.send(at, pieces(rest), length=None if chunked else len(rest))
        except Unavailable:
            at = await target.ask(at)
    return at


def sent_of(upstream: ScriptedRegistry) -> list[int]:
    """The bytes of each request of an upload, of those that had any."""
    return [asked.received for asked in upstream.asked("upload") if asked.received]


class TestABrokenLine:
    async def test_an_upload_goes_on_from_where_the_registry_says_that_it_is(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        upstream.fault(kind="upload", method="PATCH", cut_body_at=100_000, times=2)
        at = await begun(target)
        with pytest.raises(Unavailable):
            await target.send(at, pieces(CONTENT), length=None)
        at = await target.ask(at)
        assert at.offset == 100_000
        at = await send(target, at, CONTENT)
        await target.finish(at, DIGEST)
        assert upstream.repositories["app"].blobs[str(DIGEST)] == CONTENT
        assert sent_of(upstream) == [100_000, 100_000, 100_000]

    async def test_what_is_sent_in_parts_passes_a_line_that_cuts_every_connection(
        self, upstream: ScriptedRegistry
    ) -> None:
        upstream.push = Pushes(style="3")
        async with Relay(upstream.port) as line, registry_at(line.url) as registry:
            line.cut_up_after = 101_000  # a head, and 100,000 bytes
            target = registry.target(APP)
            at = await begun(target)
            while at.offset < 200_000:
                part = pieces(CONTENT[at.offset :][:100_000])
                at = await target.send(at, part, length=100_000, is_alone=True)
            await target.finish(at, DIGEST, pieces(CONTENT[200_000:]), length=100_000)
            assert upstream.repositories["app"].blobs[str(DIGEST)] == CONTENT
            assert line.connections >= 3

    async def test_an_upload_of_which_28_has_kept_more_than_it_has_told_is_over(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        ways(upstream).style = "2.8"
        upstream.fault(kind="upload", method="PATCH", cut_body_at=100_000)
        at = await begun(target)
        with pytest.raises(Unavailable):
            await target.send(at, pieces(CONTENT), length=None)
        with pytest.raises(Missing):
            await target.ask(at)

    @impatient
    async def test_a_registry_that_takes_no_more_is_left_after_the_stall_timeout(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        upstream.fault(kind="upload", method="PATCH", stall_body_at=1_000_000, times=1)
        at = await begun(target)
        with pytest.raises(Unavailable) as stall:
            await target.send(at, pieces(LARGE), length=len(LARGE))
        assert stall.value.timed_out
        at = await target.ask(at)
        assert at.offset == 1_000_000
        await target.finish(await send(target, at, LARGE), digest_of(LARGE))

    @impatient
    async def test_little_more_is_taken_from_the_pusher_than_the_registry_takes(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        taken = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal taken
            for start in range(0, len(LARGE), 65536):
                yield LARGE[start : start + 65536]
                taken += 65536

        upstream.fault(kind="upload", method="PATCH", stall_body_at=1)
        at = await begun(target)
        with pytest.raises(Unavailable):
            await target.send(at, chunks(), length=None)
        assert taken < 7 << 20  # most of it lies at the other end

    @impatient
    async def test_what_is_waited_for_from_the_pusher_is_not_the_registrys_time(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        more = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            yield CONTENT[:1000]
            await more.wait()
            yield CONTENT[1000:]

        at, other = await begun(target), await begun(target)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(target.send(at, chunks(), length=None))
            upstream.fault(kind="upload", reference="upload-2", method="PATCH", stall_body_at=1)
            with pytest.raises(Unavailable):  # after the stall timeout
                await target.send(other, pieces(CONTENT), length=None)
            more.set()
        assert sending.result().offset == len(CONTENT)

    @impatient
    async def test_a_registry_that_never_answers_what_it_has_taken_is_left(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        gate = ways(upstream).hold(after=len(CONTENT))
        with pytest.raises(Unavailable) as silence:
            await target.send(await begun(target), pieces(CONTENT), length=None)
        assert silence.value.timed_out
        gate.open()

    @pytest.mark.parametrize("status", [500, 502, 503])
    async def test_an_error_in_the_middle_ends_the_request_and_not_the_upload(
        self, upstream: ScriptedRegistry, target: Target, status: int
    ) -> None:
        upstream.fault(kind="upload", method="PATCH", body_status_at=(100_000, status), times=1)
        at = await begun(target)
        with pytest.raises(Unavailable):
            await target.send(at, pieces(LARGE), length=None)
        at = await target.ask(at)
        assert at.offset == 100_000
        await target.finish(await send(target, at, LARGE), digest_of(LARGE))

    @pytest.mark.parametrize("status", [403, 400])
    async def test_a_refusal_in_the_middle_is_heard_to_its_end(
        self, upstream: ScriptedRegistry, target: Target, status: int
    ) -> None:
        upstream.fault(kind="upload", method="PATCH", body_status_at=(100_000, status))
        at = await begun(target)
        for chunks in (pieces(LARGE), _endless()):
            with pytest.raises((Denied, Refused)) as refusal:
                await target.send(at, chunks, length=None)
            assert refusal.value.errors[0]["code"] == "UNKNOWN"
            at = await begun(target)

    async def test_a_blob_that_is_to_be_pushed_is_asked_for_once(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        assert await target.find_blob(DIGEST) is None
        assert [it.method for it in upstream.asked("blob")] == ["HEAD"]

    async def test_what_breaks_in_bringing_the_bytes_comes_out_as_itself_and_blames_nobody(
        self, registry: Registry, target: Target
    ) -> None:
        class OfTheDisk(Exception):
            pass

        async def chunks() -> AsyncIterator[bytes]:
            yield CONTENT[:1000]
            raise OfTheDisk

        at = await begun(target)
        for length in (None, len(CONTENT)):
            with pytest.raises(OfTheDisk):
                await target.send(at, chunks(), length=length)
        assert registry.gives_blobs("app")
        assert (await target.find_blob(DIGEST)) is None

    async def test_who_has_brought_all_that_was_announced_is_waited_for_no_longer(
        self, target: Target
    ) -> None:
        async def chunks() -> AsyncGenerator[bytes, None]:
            yield CONTENT
            await asyncio.Event().wait()

        at = await begun(target)
        async with aclosing(chunks()) as content:
            at = await target.send(at, content, length=len(CONTENT))
        await target.finish(at, DIGEST)

    async def test_who_brings_the_bytes_may_be_closed_as_soon_as_it_is_over(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        upstream.fault(kind="upload", method="PATCH", cut_body_at=100_000)
        at = await begun(target)
        for _ in range(5):
            async with aclosing(_endless()) as chunks:
                with pytest.raises(Unavailable):
                    await target.send(at, chunks, length=None)

    async def test_who_leaves_ends_the_request(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        gate = ways(upstream).hold(after=1000)
        at = await begun(target)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(target.send(at, pieces(CONTENT), length=None))
            await gate.reached()
            sending.cancel()
        [asked] = upstream.asked("upload", method="PATCH")

        async def is_over() -> bool:
            return asked.ended

        await until(is_over)

    async def test_an_upload_that_has_vanished_is_missing(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        at = await target.send(await begun(target), pieces(CONTENT), length=None)
        ways(upstream).lose()
        for asking in (target.ask(at), target.finish(at, DIGEST)):
            with pytest.raises(Missing):
                await asking

    async def test_less_or_more_than_was_announced_is_no_body(self, target: Target) -> None:
        at = await begun(target)
        for length in (len(CONTENT) - 1, len(CONTENT) + 1):  # 50,000 bytes are a piece
            with pytest.raises(ValueError, match="a body of"):
                await target.send(at, pieces(CONTENT), length=length)


async def _endless() -> AsyncGenerator[bytes, None]:
    while True:
        yield bytes(50_000)


async def test_a_limit_of_bandwidth_holds_for_what_is_pushed_and_loses_nothing(
    upstream: ScriptedRegistry, registry: Registry
) -> None:
    """While it holds one push back, others come through, and pulls of its own."""
    upstream.add_blob(CONTENT, "other")
    async with (
        registry_at(upstream.url, max_bandwidth="1 KB") as slow,
        registry_at(upstream.url, max_bandwidth="1 MB") as less_slow,
    ):
        at = await begun(slow.target(APP))
        async with asyncio.TaskGroup() as group:
            held = group.create_task(slow.target(APP).send(at, pieces(CONTENT), length=None))
            for there in (registry, less_slow):
                await push(there.target(Repository("hub", "other")), CONTENT)
            assert await slow.head_blob(Scope(Repository("hub", "other")), DIGEST)
            assert not held.done()
            held.cancel()
    assert sent_of(upstream)[-2:] == [len(CONTENT)] * 2


class TestRegistriesOfTheirOwnWays:
    @pytest.mark.parametrize(
        "its",
        [
            {"tells": "part"},
            {"tells": "first"},
            {"tells": "one more"},
            {"tells": "nothing"},
            {"tells": "0-0"},
            {"location": "relative"},
            {"location": "elsewhere"},
            {"location": "not of a PATCH", "style": "3", "ignores_content_range": True},
            {"ignores_content_range": True},
            {"keeps_multiples_of": 65536, "style": "3"},
            {"least": 50_000},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("chunked", [True, False])
    async def test_a_blob_in_parts_gets_through(
        self, upstream: ScriptedRegistry, target: Target, its: dict[str, Any], *, chunked: bool
    ) -> None:
        for name, value in its.items():
            setattr(ways(upstream), name, value)
        at = await begun(target)
        for stop in (100_000, 170_000):
            part = CONTENT[at.offset : stop]
            at = await target.send(at, pieces(part), length=None if chunked else len(part))
        rest = CONTENT[at.offset :]
        await target.finish(at, DIGEST, pieces(rest), length=len(rest))
        assert upstream.repositories["app"].blobs[str(DIGEST)] == CONTENT

    @pytest.mark.parametrize("chunked", [True, False])
    async def test_requests_are_cut_to_what_stands_before_a_registry(
        self, upstream: ScriptedRegistry, target: Target, *, chunked: bool
    ) -> None:
        ways(upstream).most = 5 << 20
        for number in range(2):
            blob = LARGE[number:]
            at = await send(target, await begun(target), blob, chunked=chunked)
            await target.finish(at, digest_of(blob))
        assert len(upstream.asked("upload", status=413)) < 3  # what it takes is known then

    async def test_ghcr_has_parts_of_4_mib_and_a_stream_as_large_as_it_comes(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        ways(upstream).most_of_part = 4 << 20
        upstream.fault(kind="upload", method="PATCH", cut_body_at=1 << 20, times=1)
        at = await send(target, await begun(target), LARGE)
        await target.finish(at, digest_of(LARGE))
        assert [asked.status for asked in upstream.asked("upload", status=416)] == [416]
        upstream.forget()
        blob = LARGE[1:]
        await push(target, blob)
        assert sent_of(upstream) == [len(blob)]

    async def test_who_takes_no_chunked_coding_is_sent_lengths(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        ways(upstream).takes_chunked_coding = False
        at = await send(target, await begun(target), CONTENT, chunked=True)
        await target.finish(at, DIGEST)
        blob = CONTENT[1:]
        at = await send(target, await begun(target), blob, chunked=True)
        await target.finish(at, digest_of(blob))
        assert len(upstream.asked("upload", status=411)) == 1

    async def test_the_end_is_cut_too_where_it_is_too_large(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        ways(upstream).most = 5 << 20
        for _ in range(4):
            try:
                await target.finish(
                    await begun(target), digest_of(LARGE), pieces(LARGE), length=len(LARGE)
                )
                break
            except Unavailable:
                continue
        assert upstream.repositories["app"].blobs[str(digest_of(LARGE))] == LARGE

    async def test_who_takes_no_parts_refuses_the_second(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        ways(upstream).takes_parts = False
        await push(target, CONTENT)
        at = await target.send(await begun(target), pieces(CONTENT[:1000]), length=1000)
        with pytest.raises(Refused):
            await target.send(at, pieces(CONTENT[1000:]), length=len(CONTENT) - 1000)

    async def test_who_tells_nothing_of_uploads_has_them_begun_anew(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        ways(upstream).has_status = False
        at = await target.send(await begun(target), pieces(CONTENT[:1000]), length=1000)
        with pytest.raises(Missing):
            await target.ask(at)

    async def test_an_offset_that_was_acknowledged_is_believed_over_one_that_is_told_later(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        ways(upstream).tells = "first"
        at = await begun(target)
        for start, stop in ((0, 100_000), (100_000, 200_000)):
            at = await target.send(at, pieces(CONTENT[start:stop]), length=100_000)
        assert (await target.ask(at)).offset == 200_000

    async def test_storage_is_not_told_who_pushes(
        self, upstream: ScriptedRegistry, registry: Registry
    ) -> None:
        ways(upstream).location = "elsewhere"
        await push(registry.target(APP, "Bearer mine"), CONTENT)
        told = {asked.method: asked.headers.get("Authorization") for asked in upstream.requests}
        assert told == {"POST": "Bearer mine", "PATCH": None, "PUT": None}

    @pytest.mark.parametrize("status", [401, 403, 404, 405])
    async def test_where_mounting_is_refused_an_upload_begins(
        self, upstream: ScriptedRegistry, registry: Registry, status: int
    ) -> None:
        await push(registry.target(Repository("hub", "other")), CONTENT)
        ways(upstream).refuses_mounts_with = status
        assert await registry.target(APP).begin(mount=DIGEST, source="other") is not None

    async def test_who_may_not_read_what_is_to_be_mounted_uploads_it(
        self, upstream: ScriptedRegistry, registry: Registry
    ) -> None:
        mine = registry.target(APP, "Bearer mine")
        ways(upstream).refuses_mounts_with = 403
        assert await mine.begin(mount=DIGEST, source="other") is not None
        ways(upstream).refuses_mounts_with = 401  # it may show more than that
        with pytest.raises(Denied):
            await mine.begin(mount=DIGEST, source="other")

    async def test_a_name_that_is_not_there_is_told_in_the_registrys_words(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        words = b'{"errors":[{"code":"NAME_UNKNOWN","message":"The repository does not exist"}]}'
        upstream.fault(kind="upload", status=404)
        upstream.fault(kind="upload", body=words)
        with pytest.raises(Missing) as refusal:
            await target.begin()
        assert refusal.value.errors[0]["message"]

    @pytest.mark.parametrize("status", [307, 308, 301, 302])
    async def test_a_redirect_is_followed_with_the_method_and_without_who_asks(
        self, upstream: ScriptedRegistry, registry: Registry, status: int
    ) -> None:
        target = registry.target(APP, "Bearer mine")
        there = f"http://localhost:{upstream.cdn_port}/v2/app/blobs/uploads/"
        upstream.fault(
            kind="upload", method="POST", status=status, headers={"Location": there}, times=1
        )
        at = await begun(target)
        assert [asked.method for asked in upstream.requests] == ["POST", "POST"]
        assert "Authorization" not in upstream.requests[1].headers
        await target.finish(at, DIGEST, pieces(CONTENT), length=len(CONTENT))

    async def test_a_see_other_is_no_way_to_take_an_upload(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        upstream.fault(kind="upload", status=303, headers={"Location": "/v2/"})
        with pytest.raises(Unavailable):
            await target.begin()

    async def test_a_manifest_that_the_registry_has_otherwise_is_not_taken_for_pushed(
        self, upstream: ScriptedRegistry, target: Target
    ) -> None:
        pushed = image(random_layer(1000, seed=1))
        for content in pushed.blobs.values():
            await push(target, content)
        upstream.fault(kind="tag", headers={"Docker-Content-Digest": str(DIGEST)})
        with pytest.raises(DigestMismatch):
            await target.put_manifest(Tag("1"), pushed.media_type, pushed.manifest)

    @pytest.mark.parametrize(
        "instead",
        [
            {"status": 200},
            {"status": 202},
            {"status": 201, "headers": {"Docker-Content-Digest": f"sha256:{'0' * 64}"}},
        ],
        ids=["200", "202", "another digest"],
    )
    async def test_who_does_not_say_that_it_has_a_blob_is_asked(
        self, upstream: ScriptedRegistry, target: Target, instead: dict[str, Any]
    ) -> None:
        at = await send(target, await begun(target), CONTENT)
        fault = upstream.fault(kind="upload", method="PUT", **instead)
        with pytest.raises(Unavailable):
            await target.finish(at, DIGEST)
        upstream.faults.remove(fault)
        await target.finish(at, DIGEST)
        await target.finish(await send(target, await begun(target), CONTENT), DIGEST)

    @pytest.mark.parametrize("status", [200, 202])
    async def test_who_does_not_say_that_it_has_a_manifest_is_asked(
        self, upstream: ScriptedRegistry, target: Target, status: int
    ) -> None:
        pushed = image(random_layer(1000, seed=1))
        for content in pushed.blobs.values():
            await push(target, content)
        upstream.fault(kind="tag", method="PUT", status=status, times=1)
        with pytest.raises(Unavailable):
            await target.put_manifest(Tag("1"), pushed.media_type, pushed.manifest)
        await target.put_manifest(Tag("1"), pushed.media_type, pushed.manifest)
        upstream.fault(kind="tag", method="PUT", status=status, times=1)
        await target.put_manifest(Tag("1"), pushed.media_type, pushed.manifest)


class TestWhoPushes:
    @pytest.fixture
    async def mine(self, upstream: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[Registry]:
        """The registry, as somebody who may push there."""
        upstream.push = Pushes(style="3")
        upstream.auth = BearerAuth(
            users={"anna": "secret"}, service=ACR_SERVICE, realm=f"{upstream.url}/token"
        )
        secret = tmp_path / "secret"
        secret.write_text("secret")
        async with registry_at(
            upstream.url, username="anna", password_file=str(secret), stall_timeout=30
        ) as registry:
            yield registry

    async def test_a_token_is_for_what_is_pushed_and_kept_apart_from_that_for_pulls(
        self, upstream: ScriptedRegistry, mine: Registry
    ) -> None:
        for _ in range(2):
            await asyncio.gather(*(push(mine.target(APP), CONTENT) for _ in range(4)))
        await mine.head_blob(Scope(APP), DIGEST)
        asked = [parse_qs(asked.query)["scope"] for asked in upstream.asked("token")]
        assert asked == [["repository:app:pull,push"], ["repository:app:pull"]]

    async def test_a_mount_is_asked_for_with_the_right_to_read_where_it_comes_from(
        self, upstream: ScriptedRegistry, mine: Registry
    ) -> None:
        await push(mine.target(Repository("hub", "other")), CONTENT)
        assert await mine.target(APP).begin(mount=DIGEST, source="other") is None
        scope = parse_qs(upstream.asked("token")[-1].query)["scope"]
        assert scope == ["repository:app:pull,push", "repository:other:pull"]

    async def test_a_token_that_ends_in_the_middle_costs_nothing_but_a_question(
        self, upstream: ScriptedRegistry, mine: Registry
    ) -> None:
        target, tokens = mine.target(APP), upstream.auth
        assert isinstance(tokens, BearerAuth)
        at = await target.send(await begun(target), pieces(CONTENT[:1000]), length=1000)
        tokens.revoke()
        at = await send(target, at, CONTENT)
        tokens.revoke()
        await target.finish(at, DIGEST)
        pushed = image(random_layer(1000, seed=1))
        for content in pushed.blobs.values():
            await push(target, content)
        tokens.revoke()
        await target.put_manifest(Tag("1"), pushed.media_type, pushed.manifest)
        assert upstream.repositories["app"].tags == {"1": pushed.digest}

    async def test_who_may_not_push_is_told_so_by_the_registry(
        self, upstream: ScriptedRegistry, mine: Registry
    ) -> None:
        tokens = upstream.auth
        assert isinstance(tokens, BearerAuth)
        tokens.pushers = set()
        for authorization in (None, "", "Bearer guessed"):
            with pytest.raises(Denied) as denial:
                await mine.target(APP, authorization).begin()
            assert 'scope="repository:app:pull,push"' in denial.value.challenges[0]
            assert denial.value.errors[0]["code"] == "UNAUTHORIZED"

    async def test_a_clients_own_authorization_is_sent_as_it_is_and_no_other(
        self, upstream: ScriptedRegistry, mine: Registry
    ) -> None:
        upstream.auth = None
        await push(mine.target(APP, "Bearer hers"), CONTENT)
        assert {asked.headers.get("Authorization") for asked in upstream.requests} == {
            "Bearer hers"
        }


class TestPullsMeanwhile:
    @impatient
    async def test_what_becomes_of_pushes_closes_nothing_for_pulls(
        self, upstream: ScriptedRegistry, registry: Registry
    ) -> None:
        upstream.add_blob(CONTENT, "app")
        upstream.fault(kind="upload", status=500, times=5)
        for number in range(5):
            with pytest.raises(Unavailable):
                await registry.target(Repository("hub", f"app{number}")).begin()
        target = registry.target(APP)
        upstream.fault(kind="upload", method="PATCH", cut_body_at=1000, times=5)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await target.send(await begun(target), pieces(CONTENT), length=None)
        upstream.fault(kind="upload", hang=True)
        with pytest.raises(Unavailable):
            await target.begin()
        assert registry.gives_blobs("app")
        assert await registry.head_blob(Scope(APP), DIGEST) == len(CONTENT)

    async def test_a_registry_that_limits_pushes_is_not_asked_to_take_one_and_serves_pulls(
        self, upstream: ScriptedRegistry, registry: Registry
    ) -> None:
        upstream.add_blob(CONTENT, "app")
        upstream.fault(kind="upload", status=429, headers={"Retry-After": "60"})
        for _ in range(2):
            with pytest.raises(Unavailable) as limit:
                await registry.target(APP).begin()
            assert limit.value.retry_after
        assert len(upstream.asked("upload")) == 1
        assert await registry.head_blob(Scope(APP), DIGEST) == len(CONTENT)

    async def test_only_who_answers_for_tags_is_pushed_to(self, upstream: ScriptedRegistry) -> None:
        upstream.push = Pushes()
        async with (
            ScriptedRegistry() as accelerator,
            registry_at(accelerator.url, tags=False) as near,
            registry_at(upstream.url) as there,
        ):
            registry = Registry("hub", [*near.endpoints, *there.endpoints])
            await push(registry.target(APP), CONTENT)
            upstream.fault(kind="upload", drop=True)
            with pytest.raises(Unavailable):
                await registry.target(APP).begin()
            assert not accelerator.requests
