"""Content leaves to those alone who may have it, whatever they and a hostile registry do.

One registry lets in each client by its own password, to its own repository. The other one is in an
attacker's hands: it has none of the content, names all of it in its manifests, answers every HEAD
with yes, and sends what it likes. Anna, Bob and a stranger ask for everything by every name, one
after another and together, while downloads break, blobs are evicted, rights end and the mirror
starts anew.

The model knows nothing of the mirror: whose content is in an answer is read from the answer.
"""

import asyncio
import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import aiohttp
import uvloop
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from tests.support.auth import BasicAuth, user_of
from tests.support.clock import FakeClock
from tests.support.evil import Ask, Behaviour, Evil, drips, drops, redirects, says, tells
from tests.support.faults import Asked
from tests.support.images import OCI_INDEX, OCI_MANIFEST, Image, digest_of
from tests.support.mirror import InnerMirror, document, start_inner_mirror, upstream_at
from tests.support.upstream import ScriptedRegistry

PRIVATE, EVIL = "private.example", "evil.example"
OWNERS = {"org/a": "anna", "org/b": "bob"}
CLIENTS = {
    name: {"Authorization": "Basic " + base64.b64encode(f"{name}:{name}".encode()).decode()}
    for name in ("anna", "bob")
} | {"stranger": {}}
LARGE = 300_000  # bytes; the store has room for one of them
ACCESS_FOR = 60  # seconds


def _mark(name: str) -> bytes:
    """Sixteen letters that stand in nothing else."""
    return Random(name).randbytes(8).hex().encode()  # noqa: S311 - repeatable on purpose


def _blob(name: str, size: int) -> bytes:
    """Whoever has 31 bytes in a row of it has its mark."""
    return (_mark(name) * (size // 16 + 1))[:size]


@dataclass(frozen=True)
class Content:
    """What one repository holds: blobs, two manifests that name them, and an index of those."""

    repository: str
    blobs: Sequence[bytes]
    image: Image
    index: Image
    tag: str  # is known to nobody else

    @property
    def digests(self) -> list[str]:
        return [digest_of(blob) for blob in self.blobs]


def _content(repository: str) -> Content:
    blobs = [
        _blob(f"{repository} small", 900),
        _blob(f"{repository} large", LARGE),
        _blob("of both", 70_000),
    ]
    layers = [{"mediaType": "a/b", "digest": digest_of(blob), "size": len(blob)} for blob in blobs]
    notes = {"secret": _mark(f"{repository} manifest").decode()}
    image = _document(OCI_MANIFEST, layers=layers, annotations=notes)
    index = _document(OCI_INDEX, manifests=[image.descriptor], annotations=notes)
    return Content(repository, blobs, image, index, _mark(f"{repository} tag").decode())


def _document(media_type: str, **content: object) -> Image:
    document = {"schemaVersion": 2, "mediaType": media_type, **content}
    return Image(json.dumps(document).encode(), media_type)


CONTENTS = {repository: _content(repository) for repository in OWNERS}
MARKS = {
    _mark(f"{repository} {what}"): {repository}
    for repository in OWNERS
    for what in ("small", "large", "manifest", "tag")
} | {_mark("of both"): set(OWNERS)}
DIGESTS = sorted({digest for its in CONTENTS.values() for digest in its.digests})
MANIFESTS = [image.digest for its in CONTENTS.values() for image in (its.image, its.index)]
SIZES = {digest_of(blob): len(blob) for its in CONTENTS.values() for blob in its.blobs} | {
    image.digest: len(image.manifest)
    for its in CONTENTS.values()
    for image in (its.image, its.index)
}

TARGETS = (
    *(f"blobs/{digest}" for digest in (*DIGESTS, *MANIFESTS)),
    *(f"manifests/{digest}" for digest in (*MANIFESTS, DIGESTS[0])),
    *(f"manifests/{its.tag}" for its in CONTENTS.values()),
    *(f"referrers/{digest}" for digest in MANIFESTS[:2]),
    "manifests/1",
    "manifests/2",
    "tags/list",
)


@dataclass(frozen=True)
class Request:
    client: str
    namespace: str
    repository: str
    target: str
    method: str = "GET"
    span: str | None = None

    @property
    def path(self) -> str:
        return f"/v2/{self.namespace}/{self.repository}/{self.target}"


def _evil_behaviours(private: ScriptedRegistry) -> Mapping[str, Behaviour]:
    async def sends_the_private_ones(ask: Ask) -> None:
        target = ask.line.partition(" ")[2].replace("/v2/", "/v2/", 1)
        await redirects(private.url + target)(ask)

    async def sends_another_range(ask: Ask) -> None:
        body = b"e" * LARGE
        await says(
            b"HTTP/1.1 206 Partial Content",
            b"Content-Range: bytes 0-%d/%d" % (LARGE - 2, LARGE),
            b"Content-Length: %d" % (LARGE - 1),
            body=body[:-1],
        )(ask)

    async def drips_and_drops(ask: Ask) -> None:
        await drips(b"e" * 8, every=0.01, size=LARGE)(ask)
        await drops(ask)

    return {
        "has nothing": says(b"HTTP/1.1 404 Not Found", b"Content-Length: 0"),
        "sends other bytes": tells(b"e" * LARGE),
        "lies about the size": tells(b"e" * 10),
        "drips": drips_and_drops,
        "ends at once": says(b"HTTP/1.1 200 OK", b"Content-Length: 0"),
        "sends another range": sends_another_range,
        "redirects to the private one": sends_the_private_ones,
    }


async def _says_yes(ask: Ask) -> None:
    """To whether it has something, of the size that it truly has."""
    digest = ask.line.rpartition("/")[2]
    length = b"Content-Length: %d" % SIZES.get(digest, 7)
    kind = OCI_MANIFEST if "/manifests/" in ask.line else "application/octet-stream"
    fields = b"Docker-Content-Digest: " + digest.encode(), b"Content-Type: " + kind.encode()
    await says(b"HTTP/1.1 200 OK", length, *fields)(ask)


def _corrupt(evil: Evil, private: ScriptedRegistry, behaviour: str) -> None:
    """What it does from now on with blobs and manifests; its own manifests name all there is."""
    evil.on("GET ", _evil_behaviours(private)[behaviour])
    named = [
        {"mediaType": "a/b", "digest": digest, "size": SIZES[digest]}
        for digest in (*DIGESTS, *MANIFESTS)
    ]
    of_manifests = [entry | {"mediaType": OCI_MANIFEST} for entry in named]
    for tag, image in (
        ("1", _document(OCI_MANIFEST, layers=named)),
        ("2", _document(OCI_INDEX, manifests=of_manifests)),
    ):
        for reference in (tag, image.digest):
            content = b"Content-Type: " + image.media_type.encode()
            evil.on(f"GET /v2/org/a/manifests/{reference}", tells(image.manifest, content))
            evil.on(f"GET /v2/org/b/manifests/{reference}", tells(image.manifest, content))
    evil.on("HEAD ", _says_yes)


clients = st.sampled_from(tuple(CLIENTS))
requests = st.builds(
    Request,
    client=clients,
    namespace=st.sampled_from((PRIVATE, EVIL)),
    repository=st.sampled_from(tuple(OWNERS)),
    target=st.sampled_from(TARGETS),
    method=st.sampled_from(("GET", "GET", "GET", "HEAD")),
    span=st.sampled_from((None, None, "bytes=0-63", f"bytes={LARGE - 64}-")),
)
# The owners pull, so that there is something to be had.
pulls = st.sampled_from(tuple(OWNERS)).flatmap(
    lambda repository: st.builds(
        Request,
        client=st.just(OWNERS[repository]),
        namespace=st.just(PRIVATE),
        repository=st.just(repository),
        target=st.sampled_from(
            (
                *(f"blobs/{digest}" for digest in CONTENTS[repository].digests),
                f"manifests/{CONTENTS[repository].image.digest}",
                f"manifests/{CONTENTS[repository].tag}",
            )
        ),
    )
)
BEHAVIOURS = tuple(_evil_behaviours(ScriptedRegistry()))
actions = st.one_of(
    pulls,
    pulls,
    requests,
    requests,
    st.tuples(st.just("repeats"), pulls, clients, st.sampled_from((PRIVATE, PRIVATE, EVIL))),
    st.tuples(st.just("repeats"), pulls, clients, st.sampled_from((PRIVATE, PRIVATE, EVIL))),
    st.tuples(st.just("together"), pulls, st.lists(requests, min_size=1, max_size=3)),
    st.tuples(st.just("together"), pulls, st.lists(requests, min_size=1, max_size=3)),
    st.tuples(st.just("evil"), st.sampled_from(BEHAVIOURS)),
    st.tuples(st.sampled_from(("breaks", "is down", "is up", "restart"))),
    st.tuples(st.sampled_from(("revoke", "grant")), st.sampled_from(tuple(OWNERS))),
)


# What fails is not made smaller: each try costs a mirror, and the test its time limit.
@settings(
    max_examples=40,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(script=st.lists(actions, min_size=12, max_size=30))
def test_content_leaves_to_those_alone_who_may_have_it(script: Sequence[object]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as `mirror serve` does
        runner.run(_run(script))


async def _run(script: Sequence[object]) -> None:
    with tempfile.TemporaryDirectory() as root:
        async with ScriptedRegistry() as private, Evil() as evil, AsyncExitStack() as stack:
            private.auth = rights = _Rights(users={name: name for name in OWNERS.values()})
            for repository, its in CONTENTS.items():
                for blob in its.blobs:
                    private.add_blob(blob, repository)
                private.add(its.image, repository, its.tag)
                private.add(its.index, repository)
            private.fault(where=rights.says_missing, status=404)
            _corrupt(evil, private, "has nothing")
            world = _World(Path(root) / "store", private, evil, rights)
            stack.push_async_callback(world.stop)
            for action in script:
                await world.act(action)
            assert PRIVATE not in await world.names()
            assert not any("authorization:" in head.lower() for head in evil.heads)
            await world.see_that_the_owners_are_served()


@dataclass(slots=True, kw_only=True)
class _Rights(BasicAuth):
    """Everybody has a repository; who has another's password is still not let into it."""

    revoked: set[str] = field(default_factory=set)

    def challenge(self, asked: Asked, _clock: object) -> str | None:
        user = user_of(asked, self.users)
        if self.says_missing(asked):
            return None
        is_owner = user and OWNERS.get(asked.repository) == user
        return None if is_owner and asked.repository not in self.revoked else 'Basic realm="it"'

    def says_missing(self, asked: Asked) -> bool:
        """One repository is not there for those who may not see it, as at GitHub."""
        may = user_of(asked, self.users) == "bob" and "org/b" not in self.revoked
        return asked.repository == "org/b" and not may


@dataclass
class _World:
    store: Path
    private: ScriptedRegistry
    evil: Evil
    rights: _Rights
    clock: FakeClock = field(default_factory=FakeClock)
    mirror: InnerMirror | None = None

    async def act(self, action: object) -> None:
        match action:
            case Request() as request:
                await self.ask(request)
            case ("together", Request() as pull, list() as others):
                await self.ask_together(pull, others)
            case ("repeats", Request() as pull, str() as client, str() as namespace):
                await self.ask(pull)
                await self.ask(replace(pull, client=client, namespace=namespace))
            case ("evil", str() as behaviour):
                _corrupt(self.evil, self.private, behaviour)
            case ("restart",):
                await self.stop()
            case (("revoke" | "grant") as what, str() as repository):
                self.change_rights(repository, is_revoked=what == "revoke")
            case ((("breaks" | "is down" | "is up") as what),):
                self.change_line(what)
            case _:
                raise AssertionError(action)

    def change_rights(self, repository: str, *, is_revoked: bool) -> None:
        if is_revoked:
            self.rights.revoked.add(repository)
            self.clock.advance(ACCESS_FOR + 1)
        else:
            self.rights.revoked.discard(repository)

    def change_line(self, what: str) -> None:
        """To the private registry."""
        if what == "breaks":
            self.private.fault(kind="blob", method="GET", truncate_at=LARGE // 3, times=1)
        elif what == "is down":
            self.private.fault(drop=True)
        else:
            self.heal()

    def heal(self) -> None:
        self.private.faults.clear()
        self.private.fault(where=self.rights.says_missing, status=404)

    async def ask(self, request: Request) -> int:
        """Ask, and look at whatever comes, be it a whole answer or not. Gives the status."""
        mirror = self.mirror = self.mirror or await self._start()
        headers = CLIENTS[request.client] | ({"Range": request.span} if request.span else {})
        status, body, is_whole = 0, bytearray(), False
        try:
            # Evil's answers need not end.
            async with asyncio.timeout(0.3 if request.namespace == EVIL else 30):
                async with mirror.client.open(
                    request.path, method=request.method, headers=headers
                ) as response:
                    status = response.status
                    told = repr(response.headers).encode()
                    body += told
                    async for chunk in response.content.iter_any():
                        body += chunk
                    is_whole = True
                    del body[: len(told)]
        except (aiohttp.ClientError, TimeoutError):
            pass
        found = {mark for mark in MARKS if mark in body}
        assert all(self._may_see(request, MARKS[mark]) for mark in found), f"{request}: {body[:80]}"
        digest = request.target.rpartition("/")[2]
        is_content = digest in SIZES and not request.target.startswith("referrers/")
        if is_content and is_whole and (status, request.method) == (200, "GET"):
            assert digest_of(bytes(body)) == digest, request
        return status

    async def ask_together(self, pull: Request, others: Sequence[Request]) -> None:
        """Others ask while what is pulled is half there; then it comes, or its line breaks."""
        self.mirror = self.mirror or await self._start()
        digest = pull.target.rpartition("/")[2]
        gate = self.private.hold(digest, after=SIZES.get(digest, 1) // 2)
        async with asyncio.TaskGroup() as group:
            pulling = group.create_task(self.ask(pull))
            reached = group.create_task(gate.reached())
            await asyncio.wait((pulling, reached), return_when=asyncio.FIRST_COMPLETED)
            asking = [group.create_task(self.ask(other)) for other in others]
            await asyncio.wait(asking, timeout=0.05)  # those who may have it wait for it
            gate.open() if len(others) > 1 else gate.cut()
            reached.cancel()

    async def see_that_the_owners_are_served(self) -> None:
        """Whatever came before. In a new process, which has no opinion of anybody's health."""
        await self.stop()
        self.heal()
        self.rights.revoked.clear()
        for repository, its in CONTENTS.items():
            references = [f"manifests/{its.tag}", f"manifests/{its.index.digest}", "tags/list"]
            for target in references + [f"blobs/{digest}" for digest in its.digests]:
                request = Request(OWNERS[repository], PRIVATE, repository, target)
                assert await self.ask(request) == 200, request

    async def stop(self) -> None:
        mirror, self.mirror = self.mirror, None
        if mirror is not None:
            await mirror.stop()

    async def names(self) -> str:
        """Of repositories with content that is cached, as anybody is told them."""
        mirror = self.mirror = self.mirror or await self._start()
        return (await mirror.client.get("/v2/_catalog")).body.decode()

    async def _start(self) -> InnerMirror:
        upstreams = {
            name: upstream_at(it.url) for name, it in ((PRIVATE, self.private), (EVIL, self.evil))
        }
        upstreams[PRIVATE]["access"] = "client"
        settings = document(
            upstreams,
            store_root=self.store,
            tags={"access_for": f"{ACCESS_FOR}s"},
            fill={"attempts": 1, "connect_timeout": "5s", "stall_timeout": "2s"},
        )
        settings["server"] |= {"workers": 1}  # so that one has been told what all were
        settings["store"] |= {"max_size": "380 KB", "memory_cache": "1 MB"}
        return await start_inner_mirror(settings, self.clock)

    def _may_see(self, request: Request, repositories: set[str]) -> bool:
        """Whether this request may be answered with what is in these private repositories."""
        repository = request.repository
        return (
            request.namespace == PRIVATE
            and repository in repositories
            and request.client == OWNERS[repository]
            and repository not in self.rights.revoked
        )
