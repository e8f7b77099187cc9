"""What every depot does: the store itself, and that of a mirror that runs."""

import json
from collections.abc import AsyncIterator, Sequence

import pytest

from mirror.control.bundles import MOST_ASKED, Arrived, ArrivedList, Depot, Sent, Wanted
from mirror.oci.digest import Digest, digest_of, parse_digest
from mirror.oci.errors import DigestMismatch, RegistryError
from tests.support.images import artifact, image, random_layer

CONTENT = bytes(range(256)) * 4096
PIECES = [CONTENT[start : start + 2**16] for start in range(0, len(CONTENT), 2**16)]
DIGEST = digest_of(CONTENT)

APP = image(random_layer(5000, seed=1))
NAME = "docker.io/library/app:1"


async def write(
    depot: Depot, digest: Digest, size: int, pieces: Sequence[bytes], *, is_manifest: bool = False
) -> None:
    """Write a blob that comes in pieces."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    await depot.write(digest, size, chunks(), upstreams=["docker.io"], is_manifest=is_manifest)


class DepotConformance:
    """Give a `depot` of a mirror of docker.io in which there is nothing."""

    async def test_what_is_written_is_read_as_it_was(self, depot: Depot) -> None:
        assert await depot.find_missing([DIGEST]) == {DIGEST}
        await write(depot, DIGEST, len(CONTENT), PIECES)
        assert await depot.find_missing([DIGEST]) == set()
        assert b"".join([piece async for piece in depot.read(DIGEST)]) == CONTENT

    async def test_an_empty_blob_is_one(self, depot: Depot) -> None:
        empty = digest_of(b"")
        await write(depot, empty, 0, [])
        assert await depot.find_missing([empty]) == set()
        assert [piece async for piece in depot.read(empty)] == []

    async def test_what_is_something_else_is_not_kept_and_hinders_nobody(
        self, depot: Depot
    ) -> None:
        with pytest.raises(DigestMismatch):
            await write(depot, DIGEST, len(CONTENT), [b"x" * len(CONTENT)])
        assert await depot.find_missing([DIGEST]) == {DIGEST}
        await write(depot, DIGEST, len(CONTENT), PIECES)
        assert await depot.find_missing([DIGEST]) == set()

    async def test_what_is_not_here_cannot_be_read(self, depot: Depot) -> None:
        with pytest.raises(RegistryError, match="is not here"):
            _ = [piece async for piece in depot.read(DIGEST)]

    async def test_an_image_is_on_record_once_all_of_it_is_here(self, depot: Depot) -> None:
        arrived = Arrived(NAME, APP.digest, APP.media_type, 1000.0)
        root = parse_digest(APP.digest)
        await write(depot, root, len(APP.manifest), [APP.manifest], is_manifest=True)
        [layer] = APP.layers
        for digest, content in APP.blobs.items():
            recorded = await depot.record(arrived)
            assert (recorded.outcome, layer in recorded.missing) == ("incomplete", True)
            assert (await depot.plan(Wanted(NAME))).missing
            await write(depot, parse_digest(digest), len(content), [content])
        assert (await depot.record(arrived)).outcome == "imported"
        plan = await depot.plan(Wanted("app:1"))
        assert (plan.image, plan.digest, plan.missing) == (NAME, APP.digest, [])
        assert {blob.digest for blob in plan.blobs} == {APP.digest, *APP.blobs}
        assert (plan.config, plan.layers) == (APP.config, [layer])
        older = Arrived(NAME, APP.digest, APP.media_type, 900.0)
        assert (await depot.record(older)).outcome == "imported"  # it says the same

    async def test_what_refers_to_an_image_goes_where_that_goes(self, depot: Depot) -> None:
        sbom = artifact(b"made of", subject=APP)
        content = json.dumps({"schemaVersion": 2, "manifests": [sbom.descriptor]}).encode()
        arrived = ArrivedList(f"docker.io/library/app@{APP.digest}", str(digest_of(content)), 1.0)
        assert (await depot.record_referrers(arrived)).missing == [str(digest_of(content))]
        for digest, blob in APP.blobs.items():
            await write(depot, parse_digest(digest), len(blob), [blob])
        for manifest in (APP.manifest, sbom.manifest):
            await write(depot, digest_of(manifest), len(manifest), [manifest], is_manifest=True)
        assert (await depot.record(Arrived(NAME, APP.digest, APP.media_type, 1.0))).missing == []
        for digest, blob in sbom.blobs.items():
            await write(depot, digest_of(content), len(content), [content])
            told = await depot.record_referrers(arrived)
            assert (told.outcome, digest in told.missing) == ("incomplete", True)
            await write(depot, parse_digest(digest), len(blob), [blob])
        await write(depot, digest_of(content), len(content), [content])
        assert (await depot.record_referrers(arrived)).outcome == "imported"
        plan = await depot.plan(Wanted("app:1"))
        [companion] = plan.companions
        assert (companion.image, companion.referrers) == (arrived.image, 1)
        assert (companion.digest, companion.content) == (arrived.digest, content.decode())
        names = {APP.digest, *APP.blobs, sbom.digest, *sbom.blobs}
        assert {blob.digest for blob in plan.blobs} == names

    async def test_what_makes_no_sense_is_refused(self, depot: Depot) -> None:
        many = [digest_of(b"%d" % number) for number in range(MOST_ASKED + 1)]
        with pytest.raises(ValueError, match="at a time"):
            await depot.find_missing(many)
        with pytest.raises(ValueError, match="at a time"):
            await depot.note_sent(Sent([*map(str, many)], ["docker.io"]))
        with pytest.raises(ValueError, match="there is no"):
            await depot.note_sent(Sent([], ["quay.io"]))
        with pytest.raises(ValueError, match="there is no"):
            await depot.record(Arrived("quay.io/org/app:1", str(DIGEST), "", 0))
        await write(depot, DIGEST, len(CONTENT), PIECES)
        with pytest.raises(ValueError, match="not a list of referrers"):
            await depot.record_referrers(
                ArrivedList(f"docker.io/library/app@{DIGEST}", str(DIGEST), 0)
            )
        with pytest.raises(ValueError, match="refers to a tag"):
            await depot.record_referrers(ArrivedList(NAME, str(DIGEST), 0))
        with pytest.raises(ValueError, match="no platform"):
            await depot.plan(Wanted("app", ["amd64"]))
