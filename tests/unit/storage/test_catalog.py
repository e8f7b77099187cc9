from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.oci.digest import digest_of
from mirror.oci.reference import Repository
from mirror.oci.request import Page
from mirror.storage.catalog import (
    Catalog,
    Link,
    ReferrersRecord,
    TagRecord,
)

ALPINE, NGINX = Repository("docker.io", "library/alpine"), Repository("docker.io", "library/nginx")
ONE, TWO = (digest_of(name) for name in (b"1", b"2"))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite3"


@pytest.fixture
async def catalog(path: Path) -> AsyncIterator[Catalog]:
    async with Catalog.open(path) as catalog:
        yield catalog


async def test_what_was_recorded_is_there_after_a_restart(path: Path) -> None:
    async with Catalog.open(path) as catalog:
        await catalog.record_links(ALPINE, [Link(ONE, 10)])
        await catalog.record_links(NGINX, [Link(ONE, 10)])
        await catalog.record_tag(ALPINE, "3.20", TagRecord(ONE, 3.0))
        await catalog.record_media_type(ONE, MANIFEST)
    async with Catalog.open(path) as catalog:
        assert await catalog.find_link(ALPINE, ONE) == 10
        assert await catalog.find_link(ALPINE, TWO) is None
        assert await catalog.find_tag(ALPINE, "3.20") == TagRecord(ONE, 3.0)
        assert await catalog.find_media_type(ONE) == MANIFEST
        assert await catalog.find_media_type(TWO) is None
        assert await catalog.list_links() == [(ALPINE, ONE), (NGINX, ONE)]
        assert await catalog.count_links([ONE, TWO]) == {ONE: 2}


async def test_a_tag_means_what_upstream_said_last(catalog: Catalog) -> None:
    assert await catalog.find_tag(ALPINE, "3.20") is None
    await catalog.record_tag(ALPINE, "3.20", TagRecord(ONE, 1.0))
    await catalog.record_tag(ALPINE, "3.20", TagRecord(TWO, 2.5))
    assert await catalog.find_tag(ALPINE, "3.20") == TagRecord(TWO, 2.5)
    assert await catalog.find_tag(NGINX, "3.20") is None


async def test_tags_are_paged_in_lexical_order(catalog: Catalog) -> None:
    for tag in ("b", "a", "B", "a1"):
        await catalog.record_tag(ALPINE, tag, TagRecord(ONE, 1.0))
    await catalog.record_tag(NGINX, "other", TagRecord(ONE, 1.0))
    assert await catalog.list_tags(ALPINE, Page(None, None)) == ["B", "a", "a1", "b"]
    assert await catalog.list_tags(ALPINE, Page(2, None)) == ["B", "a"]
    assert await catalog.list_tags(ALPINE, Page(2, "a")) == ["a1", "b"]
    assert await catalog.list_tags(ALPINE, Page(0, None)) == []


async def test_referrers_are_kept_for_each_filter(catalog: Catalog) -> None:
    everything = ReferrersRecord(b"{}", filtered=False, checked_at=1.0)
    signatures = ReferrersRecord(b"[]", filtered=True, checked_at=2.0)
    await catalog.record_referrers(ALPINE, ONE, None, everything)
    await catalog.record_referrers(ALPINE, ONE, "signature", everything)
    await catalog.record_referrers(ALPINE, ONE, "signature", signatures)
    assert await catalog.find_referrers(ALPINE, ONE, None) == everything
    assert await catalog.find_referrers(ALPINE, ONE, "signature") == signatures
    assert await catalog.find_referrers(ALPINE, TWO, None) is None
