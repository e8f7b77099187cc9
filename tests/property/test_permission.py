"""What a repository's own upstream has not sent or confirmed never leaves, whatever came before.

Three registries: one that all may pull from, one that lets in each client by its own password, and
one whose owner writes manifests and lies at will. All hold some of the same blobs, and name others
in their manifests. The store is so small that blobs are evicted, and the mirror starts anew.
"""

import asyncio
import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import uvloop
from hypothesis import Phase, given, settings, strategies as st

from tests.support.auth import BasicAuth
from tests.support.clock import FakeClock
from tests.support.images import OCI_MANIFEST, Image, digest_of, random_bytes
from tests.support.mirror import InnerMirror, document, start_inner_mirror, upstream_at
from tests.support.upstream import ScriptedRegistry

OPEN, PRIVATE, EVIL = NAMES = ("open.example", "private.example", "evil.example")
REPOSITORIES = ("a", "b")
BLOBS = {digest_of(blob): blob for blob in (random_bytes(n, seed=n) for n in (900, 300_000))}
DIGESTS = tuple(BLOBS)
ANNA = {"Authorization": "Basic " + base64.b64encode(b"anna:secret").decode()}

Place = tuple[str, str]  # an upstream and a repository of it
Action = tuple[str, Place, str]

places = st.tuples(st.sampled_from(NAMES), st.sampled_from(REPOSITORIES))
some_blobs = st.sets(st.sampled_from(DIGESTS)) | st.just(set(DIGESTS))
contents = st.fixed_dictionaries(
    {(name, repository): some_blobs for name in NAMES for repository in REPOSITORIES}
)
actions = st.tuples(
    st.sampled_from(("blob",) * 6 + ("manifest",) * 2 + ("restart", "lie", "stranger")),
    places,
    st.sampled_from(DIGESTS),
)


# What fails is not made smaller: each try costs a mirror, and the test its time limit.
@settings(max_examples=60, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(holds=contents, names=contents, script=st.lists(actions, min_size=8, max_size=24))
def test_what_the_own_upstream_has_not_sent_or_confirmed_never_leaves(
    holds: Mapping[Place, set[str]], names: Mapping[Place, set[str]], script: Sequence[Action]
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as `mirror serve` does
        runner.run(_run(holds, names, script))


async def _run(
    holds: Mapping[Place, set[str]], names: Mapping[Place, set[str]], script: Sequence[Action]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        async with AsyncExitStack() as stack:
            registries = {
                name: await stack.enter_async_context(ScriptedRegistry()) for name in NAMES
            }
            registries[PRIVATE].auth = BasicAuth(users={"anna": "secret"})
            for (name, repository), digests in holds.items():
                for digest in digests:
                    registries[name].add_blob(BLOBS[digest], repository)
            for place, digests in names.items():
                registries[place[0]].add(_manifest(place, digests), place[1], "1")
            world = _World(Path(root) / "store", registries, names)
            try:
                for what, place, digest in script:
                    await world.act(what, place, digest)
            finally:
                await world.stop()


def _manifest(place: Place, digests: set[str]) -> Image:
    """A manifest that is like no other's, and names these."""
    layers = [
        {"mediaType": "a/b", "digest": digest, "size": len(BLOBS[digest])}
        for digest in sorted(digests)
    ]
    content = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "layers": layers,
        "annotations": place,
    }
    return Image(json.dumps(content).encode(), OCI_MANIFEST)


@dataclass
class _World:
    store: Path
    registries: Mapping[str, ScriptedRegistry]
    names: Mapping[Place, set[str]]
    named: set[tuple[Place, str]] = field(default_factory=set)  # by a manifest that was pulled
    mirror: InnerMirror | None = None

    async def act(self, what: str, place: Place, digest: str) -> None:
        mirror = self.mirror = self.mirror or await self._start()
        name, repository = place
        headers = ANNA if name == PRIVATE and what != "stranger" else {}
        match what:
            case "restart":
                await self.stop()
            case "lie":
                self.registries[EVIL].fault(kind="blob", method="HEAD", status=200)
            case "manifest":
                target = f"/v2/{name}/{repository}/manifests/1"
                assert (await mirror.client.get(target, headers=headers)).status == 200
                self.named.update((place, digest) for digest in self.names[place])
            case _:
                target = f"/v2/{name}/{repository}/blobs/{digest}"
                status, body = await _pull(mirror, target, headers)
                if status == 200:
                    assert body == BLOBS[digest]
                    assert self._may_leave(place, digest), f"{digest} to {place}"
                    assert name != PRIVATE or headers

    async def stop(self) -> None:
        mirror, self.mirror = self.mirror, None
        if mirror is not None:
            await mirror.stop()

    async def _start(self) -> InnerMirror:
        upstreams = {name: upstream_at(self.registries[name].url) for name in NAMES}
        upstreams[PRIVATE]["access"] = "client"
        limits = {"max_size": "301 KB", "memory_cache": "1 MB"}
        settings = document(upstreams, store_root=self.store)
        settings["store"] |= limits
        return await start_inner_mirror(settings, FakeClock())

    def _may_leave(self, place: Place, digest: str) -> bool:
        """By what the registries were asked, and have answered."""
        name, repository = place
        has_confirmed = any(
            asked.status in {200, 206}
            for asked in self.registries[name].asked(
                "blob", reference=digest, repository=repository
            )
        )
        if self._has_sent(name, digest):
            return has_confirmed or (name != PRIVATE and (place, digest) in self.named)
        return has_confirmed and any(self._has_sent(other, digest) for other in (OPEN, EVIL))

    def _has_sent(self, name: str, digest: str) -> bool:
        answers = self.registries[name].asked("blob", reference=digest, method="GET")
        return any(asked.sent == len(BLOBS[digest]) for asked in answers)


async def _pull(mirror: InnerMirror, target: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    try:
        answer = await mirror.client.get(target, headers=headers)
    except aiohttp.ClientError:
        return 0, b""
    return answer.status, answer.body
