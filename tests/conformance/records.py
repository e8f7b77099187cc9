"""What every implementation of `mirror.records.ports.Records` must do: inherit, and give a fixture.

class TestSomeRecords(RecordsConformance):
    @pytest.fixture
    async def records(self) -> AsyncIterator[Records]: ...
"""

import asyncio
from collections.abc import Collection

import pytest

from mirror.oci.digest import Digest, digest_of
from mirror.oci.errors import StoreError
from mirror.oci.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from mirror.oci.reference import Repository
from mirror.records.ports import Link, Named, Records, ReferrersRecord, TagRecord
from tests.support.clock import FakeClock

HUB, GHCR, EVIL = "docker.io", "ghcr.io", "evil.example"
ALPINE, NGINX = Repository(HUB, "library/alpine"), Repository(HUB, "library/nginx")
APP, LURE = Repository(GHCR, "org/app"), Repository(EVIL, "lure")
ONE, TWO, THREE = (digest_of(name) for name in (b"1", b"2", b"3"))
HOUR = 3600.0
LONG = Digest("sha512", "ab" * 64)


async def list_all_links(records: Records, upstreams: Collection[str]) -> list[tuple[str, Digest]]:
    """Repository and digest, as they are listed page by page."""
    links: list[tuple[str, Digest]] = []
    last = None
    while listed := await records.list_repositories(upstreams, after=last, limit=3):
        for repository, latest in listed:
            after, found = None, list[Digest]()
            while page := await records.list_links(repository, after=after, limit=10):
                assert len(page) <= 10
                found += page
                after = page[-1]
            assert set(latest) <= set(found)
            assert latest
            links += [(str(repository), digest) for digest in found]
        last = str(listed[-1].repository)
    return links


class RecordsConformance:
    """Each test has records of its own, and they are empty."""

    # Links

    async def test_nothing_is_known_of_what_nobody_has_spoken_of(self, records: Records) -> None:
        assert not await records.knows(ALPINE)
        assert await records.find_link(ALPINE, ONE) is None
        assert await records.list_children(ONE) == []
        assert await records.count_links([ONE]) == {}
        assert await records.count_links([]) == {}
        assert await records.find_media_type(HUB, ONE) is None
        assert await records.list_senders(ONE) == frozenset()
        assert await records.find_tag(ALPINE, "1") is None
        assert await records.list_tags(ALPINE, after=None, limit=None) == []
        assert await records.find_referrers(ALPINE, ONE) is None
        assert await list_all_links(records, [HUB]) == []

    @pytest.mark.parametrize("digest", [ONE, LONG])
    async def test_what_upstream_has_confirmed_stands_for_that_repository_alone(
        self, records: Records, digest: Digest
    ) -> None:
        await records.record_link(ALPINE, digest, 10)
        link = await records.find_link(ALPINE, digest)
        assert link == Link(10, is_confirmed=True, is_sent=False)
        assert link.stands
        assert await records.find_link(NGINX, digest) is None
        assert await records.find_link(APP, digest) is None
        assert await records.knows(ALPINE)
        assert not await records.knows(NGINX)

    async def test_what_a_manifest_names_stands_once_the_same_upstream_has_sent_it(
        self, records: Records
    ) -> None:
        await records.record_manifest(ALPINE, ONE, 5, [Named(TWO, 20)])
        assert await records.find_link(ALPINE, ONE) == Link(5, is_confirmed=True, is_sent=False)
        named = await records.find_link(ALPINE, TWO)
        assert named == Link(20, is_confirmed=False, is_sent=False)
        assert not named.stands
        await records.record_sent(GHCR, TWO)
        assert await records.find_link(ALPINE, TWO) == named
        await records.record_sent(HUB, TWO)
        link = await records.find_link(ALPINE, TWO)
        assert link == Link(20, is_confirmed=False, is_sent=True)
        assert link.stands

    async def test_a_foreign_layer_is_named_and_not_linked(self, records: Records) -> None:
        children = [Named(TWO, 20, is_foreign=True), Named(THREE, 30)]
        await records.record_manifest(ALPINE, ONE, 5, children)
        assert await records.find_link(ALPINE, TWO) is None
        assert await records.list_children(ONE) == [TWO, THREE]

    async def test_upstreams_word_on_a_size_goes_before_a_manifests(self, records: Records) -> None:
        await records.record_manifest(ALPINE, ONE, 5, [Named(THREE, 1)])
        await records.record_manifest(ALPINE, TWO, 5, [Named(THREE, 30)])
        assert await records.find_link(ALPINE, THREE) == Link(30, is_confirmed=False, is_sent=False)
        await records.record_link(ALPINE, THREE, 31)
        await records.record_manifest(ALPINE, ONE, 5, [Named(THREE, 1)])
        assert await records.find_link(ALPINE, THREE) == Link(31, is_confirmed=True, is_sent=False)

    async def test_children_are_listed_as_the_manifest_has_them(self, records: Records) -> None:
        names = [Named(digest, 1) for digest in (THREE, ONE, THREE, LONG)]
        for repository in (ALPINE, LURE):
            await records.record_manifest(repository, TWO, 5, names)
        assert await records.list_children(TWO) == [THREE, ONE, THREE, LONG]

    async def test_what_names_what_is_listed_from_both_ends(self, records: Records) -> None:
        for parent, children in ((TWO, (ONE, LONG)), (THREE, (ONE,))):
            names = [Named(digest, 1) for digest in children]
            await records.record_manifest(ALPINE, parent, 5, names)
        assert set(await records.list_parents([ONE], limit=9)) == {(TWO, ONE), (THREE, ONE)}
        assert await records.list_parents([LONG, TWO], limit=9) == [(TWO, LONG)]
        edges = {(TWO, ONE), (TWO, LONG), (THREE, ONE)}
        assert set(await records.list_edges([TWO, THREE, ONE], limit=9)) == edges
        assert len(await records.list_edges([TWO, THREE, ONE], limit=2)) == 2
        assert await records.list_edges([], limit=9) == []

    async def test_a_digest_is_tagged_as_long_as_a_tag_of_the_repository_means_it(
        self, records: Records
    ) -> None:
        for tag in ("1", "1.0"):
            await records.record_tag(ALPINE, tag, TagRecord(ONE, 1.0))
        assert await records.list_tags_of(ALPINE, ONE)
        assert not await records.list_tags_of(NGINX, ONE)
        await records.record_tag(ALPINE, "1", TagRecord(TWO, 2.0))
        assert await records.list_tags_of(ALPINE, ONE)
        await records.forget_tag(ALPINE, "1.0")
        assert not await records.list_tags_of(ALPINE, ONE)

    async def test_a_manifest_that_was_sent_is_recorded_with_what_it_was_called(
        self, records: Records
    ) -> None:
        await records.record_manifest(ALPINE, ONE, 5, [], sent_as=OCI_MANIFEST)
        assert await records.find_link(ALPINE, ONE) == Link(5, is_confirmed=True, is_sent=True)
        assert await records.find_media_type(HUB, ONE) == OCI_MANIFEST
        assert await records.list_senders(ONE) == {HUB}

    async def test_a_manifest_is_recorded_all_or_not_at_all(self, records: Records) -> None:
        with pytest.raises(StoreError):
            await records.record_manifest(
                ALPINE, ONE, 5, [Named(TWO, 20), Named(THREE, 2**70)], sent_as=OCI_MANIFEST
            )
        assert await records.find_link(ALPINE, ONE) is None
        assert await records.find_link(ALPINE, TWO) is None
        assert await records.list_children(ONE) == []
        assert await records.list_senders(ONE) == frozenset()

    async def test_links_are_counted_over_all_repositories(self, records: Records) -> None:
        for repository in (ALPINE, NGINX, APP):
            await records.record_link(repository, ONE, 10)
        await records.record_manifest(LURE, TWO, 5, [Named(ONE, 10)])
        many = [digest_of(b"%d" % number) for number in range(1200)]
        assert await records.count_links([*many, ONE, TWO, THREE]) == {ONE: 4, TWO: 1}

    # Who sent what

    async def test_everyone_who_has_sent_something_is_known(self, records: Records) -> None:
        for upstream in (HUB, GHCR, HUB):
            await records.record_sent(upstream, ONE)
        assert await records.list_senders(ONE) == {HUB, GHCR}

    async def test_what_an_upstream_calls_a_manifest_is_its_own_affair(
        self, records: Records
    ) -> None:
        await records.record_sent(HUB, ONE, media_type=DOCKER_MANIFEST)
        await records.record_sent(EVIL, ONE, media_type="text/html")
        await records.record_sent(GHCR, ONE)
        assert await records.find_media_type(HUB, ONE) == DOCKER_MANIFEST
        assert await records.find_media_type(EVIL, ONE) == "text/html"
        assert await records.find_media_type(GHCR, ONE) is None

    async def test_a_manifest_sent_anew_is_called_as_last_and_never_nothing(
        self, records: Records
    ) -> None:
        await records.record_sent(HUB, ONE, media_type=OCI_MANIFEST)
        await records.record_sent(HUB, ONE)
        assert await records.find_media_type(HUB, ONE) == OCI_MANIFEST
        await records.record_sent(HUB, ONE, media_type=OCI_INDEX)
        assert await records.find_media_type(HUB, ONE) == OCI_INDEX

    # Tags

    async def test_a_tag_means_what_upstream_said_last(self, records: Records) -> None:
        await records.record_tag(ALPINE, "3.20", TagRecord(ONE, 1.0))
        await records.record_tag(ALPINE, "3.20", TagRecord(ONE, 2.0, is_fallback=True))
        assert await records.find_tag(ALPINE, "3.20") == TagRecord(ONE, 2.0, is_fallback=True)
        await records.record_tag(ALPINE, "3.20", TagRecord(TWO, 2.2, is_imported=True))
        assert await records.find_tag(ALPINE, "3.20") == TagRecord(TWO, 2.2, is_imported=True)
        await records.record_tag(ALPINE, "3.20", TagRecord(LONG, 2.5, told_by="one.example"))
        assert await records.find_tag(ALPINE, "3.20") == TagRecord(LONG, 2.5, told_by="one.example")
        assert await records.find_tag(NGINX, "3.20") is None

    async def test_tags_are_paged_in_lexical_order(self, records: Records) -> None:
        for tag in ("b", "a", "B", "a1"):
            await records.record_tag(ALPINE, tag, TagRecord(ONE, 1.0))
        await records.record_tag(NGINX, "other", TagRecord(ONE, 1.0))
        assert await records.list_tags(ALPINE, after=None, limit=None) == ["B", "a", "a1", "b"]
        assert await records.list_tags(ALPINE, after=None, limit=2) == ["B", "a"]
        assert await records.list_tags(ALPINE, after="a", limit=2) == ["a1", "b"]
        assert await records.list_tags(ALPINE, after="a0", limit=1) == ["a1"]
        assert await records.list_tags(ALPINE, after="b", limit=2) == []
        assert await records.list_tags(ALPINE, after=None, limit=0) == []

    # Referrers

    async def test_of_referrers_the_last_list_is_kept(self, records: Records) -> None:
        imported = ReferrersRecord(b"[]", 3.0, is_imported=True)
        told = (ReferrersRecord(b"{}", 1.0), ReferrersRecord(b"\x00\xff", 2.0))
        for last in (*told, imported, ReferrersRecord(b"{}", 4.0)):
            await records.record_referrers(ALPINE, ONE, last)
            assert await records.find_referrers(ALPINE, ONE) == last
        assert await records.find_referrers(ALPINE, TWO) is None
        assert await records.find_referrers(APP, ONE) is None

    # Lists

    async def test_repositories_are_listed_by_their_whole_names(self, records: Records) -> None:
        names = [Repository("a", "x"), Repository("a.b", "x"), Repository("a-b", "x"), ALPINE]
        for repository in names:
            await records.record_link(repository, ONE, 1)
        upstreams = {repository.namespace for repository in names} | {GHCR}
        inorder = sorted(map(str, names))

        async def paths(upstreams: Collection[str], after: str | None, limit: int) -> list[str]:
            found = await records.list_repositories(upstreams, after=after, limit=limit)
            assert {digest for listed in found for digest in listed.latest} <= {ONE}
            return [str(listed.repository) for listed in found]

        assert await paths(upstreams, None, 9) == inorder
        assert await paths(upstreams, None, 2) == inorder[:2]
        assert await paths(upstreams, inorder[1], 9) == inorder[2:]
        assert await paths(upstreams, "a.", 1) == [str(names[1])]
        assert await paths([HUB], None, 9) == [str(ALPINE)]
        assert await paths([], None, 9) == []

    async def test_the_few_digests_that_were_linked_last_are_listed_with_a_repository(
        self, records: Records
    ) -> None:
        digests = [digest_of(b"%d" % number) for number in range(25)]
        for digest in digests:
            await records.record_link(ALPINE, digest, 1)
            await records.record_link(NGINX, digest, 1)
        for listed in await records.list_repositories([HUB], after=None, limit=9):
            assert 1 <= len(listed.latest) < 10
            assert set(listed.latest) == set(digests[-len(listed.latest) :])

    async def test_links_are_paged_and_none_is_left_out(self, records: Records) -> None:
        digests = {digest_of(b"%d" % number) for number in range(25)} | {LONG}
        await records.record_manifest(
            ALPINE, ONE, 5, [Named(digest, 1) for digest in digests - {ONE}]
        )
        await records.record_link(NGINX, TWO, 1)
        found = await list_all_links(records, [HUB])
        assert len(found) == len(set(found)) == len(digests | {ONE}) + 1
        assert {digest for path, digest in found if path == str(ALPINE)} == digests | {ONE}
        assert found[-1] == (str(NGINX), TWO)

    # What is no longer so

    async def test_a_link_that_is_forgotten_is_gone_for_its_repository_alone(
        self, records: Records
    ) -> None:
        for repository in (ALPINE, NGINX):
            await records.record_link(repository, ONE, 10)
        await records.forget_links(ALPINE, [ONE])
        await records.forget_links(APP, [ONE, TWO])  # there was none
        assert await records.find_link(ALPINE, ONE) is None
        assert await records.find_link(NGINX, ONE) is not None
        assert await records.count_links([ONE]) == {ONE: 1}

    async def test_a_forgotten_link_that_a_manifest_names_again_is_not_confirmed(
        self, records: Records
    ) -> None:
        await records.record_link(ALPINE, ONE, 10)
        await records.forget_links(ALPINE, [ONE])
        await records.record_manifest(ALPINE, TWO, 5, [Named(ONE, 10)])
        assert await records.find_link(ALPINE, ONE) == Link(10, is_confirmed=False, is_sent=False)

    async def test_a_tag_that_is_forgotten_is_gone_and_its_neighbours_stay(
        self, records: Records
    ) -> None:
        for tag in ("1", "2"):
            await records.record_tag(ALPINE, tag, TagRecord(ONE, 1.0))
        await records.forget_tag(ALPINE, "1")
        await records.forget_tag(NGINX, "1")  # there was none
        assert await records.find_tag(ALPINE, "1") is None
        assert await records.list_tags(ALPINE, after=None, limit=None) == ["2"]

    # What has become of no use

    async def test_what_was_seen_the_longest_ago_is_listed_first_and_page_by_page(
        self, records: Records, clock: FakeClock
    ) -> None:
        for digest in (TWO, ONE, THREE):
            await records.record_link(ALPINE, digest, 1)
            clock.advance(2 * HOUR)
        await records.note_seen([TWO])
        clock.advance(2 * HOUR)
        first = await records.list_unseen(before=clock(), after=None, limit=2)
        assert [seen.digest for seen in first] == [ONE, THREE]
        rest = await records.list_unseen(before=clock(), after=first[-1], limit=2)
        assert [seen.digest for seen in rest] == [TWO]
        assert await records.list_unseen(before=clock(), after=rest[-1], limit=2) == []
        lately = await records.list_unseen(before=clock() - 5 * HOUR, after=None, limit=2)
        assert [seen.digest for seen in lately] == [ONE]

    async def test_what_was_seen_within_the_same_hour_is_listed_page_by_page(
        self, records: Records, clock: FakeClock
    ) -> None:
        digests = [digest_of(b"%d" % number) for number in range(25)]
        for digest in digests:
            await records.record_link(ALPINE, digest, 1)
        clock.advance(2 * HOUR)
        await records.record_link(ALPINE, TWO, 1)
        clock.advance(2 * HOUR)
        found: list[Digest] = []
        after = None
        while page := await records.list_unseen(before=clock(), after=after, limit=10):
            found += [seen.digest for seen in page]
            after = page[-1]
        assert set(found[:-1]) == set(digests) - {TWO}
        assert found[-1] == TWO
        assert len(found) == len(set(found))

    async def test_all_that_is_known_of_a_digest_is_forgotten_together(
        self, records: Records, clock: FakeClock
    ) -> None:
        for repository in (ALPINE, APP):
            await records.record_manifest(
                repository, ONE, 5, [Named(TWO, 20)], sent_as=OCI_MANIFEST
            )
            await records.record_tag(repository, "1", TagRecord(ONE, 1.0))
        await records.record_referrers(ALPINE, ONE, ReferrersRecord(b"{}", 1.0))
        await records.record_link(NGINX, THREE, 3)
        clock.advance(2 * HOUR)
        assert await records.forget_unseen([ONE, TWO, LONG], before=clock()) == {ONE, TWO, LONG}
        for repository in (ALPINE, APP):
            assert await records.find_link(repository, ONE) is None
            assert await records.find_link(repository, TWO) is None
            assert await records.find_tag(repository, "1") is None
        assert await records.find_referrers(ALPINE, ONE) is None
        assert await records.list_senders(ONE) == frozenset()
        assert await records.find_media_type(HUB, ONE) is None
        assert await records.list_children(ONE) == []
        assert await list_all_links(records, [HUB, GHCR]) == [(str(NGINX), THREE)]

    @pytest.mark.parametrize("sent_again_by", [HUB, GHCR])
    async def test_what_was_recorded_again_since_it_was_looked_at_is_not_forgotten(
        self, records: Records, clock: FakeClock, sent_again_by: str
    ) -> None:
        """Or private bytes would be kept that nobody is known to have sent."""
        await records.record_sent(HUB, ONE)
        clock.advance(100 * HOUR)
        before = clock()
        await records.record_sent(sent_again_by, ONE)
        assert await records.forget_unseen([ONE], before=before) == set()
        assert await records.list_senders(ONE) == {HUB, sent_again_by}

    async def test_what_a_manifest_names_is_not_forgotten_before_the_manifest(
        self, records: Records, clock: FakeClock
    ) -> None:
        await records.record_manifest(ALPINE, TWO, 5, [Named(THREE, 30)])
        await records.record_manifest(ALPINE, ONE, 5, [Named(TWO, 20)])
        clock.advance(100 * HOUR)
        await records.note_seen([ONE])
        before = clock()
        clock.advance(2 * HOUR)
        assert await records.forget_unseen([TWO, THREE], before=before) == set()
        assert await records.find_link(ALPINE, THREE) is not None
        assert await records.list_children(ONE) == [TWO]
        assert await records.list_unseen(before=before, after=None, limit=9) == []
        assert await records.forget_unseen([ONE, TWO, THREE], before=clock()) == {ONE, TWO, THREE}

    async def test_a_layer_that_other_manifests_name_outlives_the_one(
        self, records: Records, clock: FakeClock
    ) -> None:
        await records.record_manifest(ALPINE, ONE, 5, [Named(THREE, 30)])
        clock.advance(100 * HOUR)
        await records.record_manifest(ALPINE, TWO, 5, [Named(THREE, 30)])
        assert await records.forget_unseen([ONE], before=clock()) == {ONE}
        assert await records.find_link(ALPINE, THREE) is not None
        assert await records.list_children(TWO) == [THREE]

    async def test_what_only_a_forgotten_manifest_has_named_stays_linked_while_it_is_of_use(
        self, records: Records, clock: FakeClock
    ) -> None:
        await records.record_manifest(ALPINE, ONE, 5, [Named(TWO, 20)])
        await records.record_sent(HUB, TWO)
        clock.advance(100 * HOUR)
        await records.note_seen([TWO])
        assert await records.forget_unseen([ONE], before=clock()) == {ONE}
        link = await records.find_link(ALPINE, TWO)
        assert link == Link(20, is_confirmed=False, is_sent=True)

    async def test_repositories_of_which_nothing_is_known_are_forgotten(
        self, records: Records, clock: FakeClock
    ) -> None:
        for number in range(25):
            await records.record_link(Repository(HUB, f"r{number:02}"), ONE, 1)
        await records.record_tag(ALPINE, "1", TagRecord(TWO, 1.0))
        clock.advance(100 * HOUR)
        await records.forget_unseen([ONE], before=clock())
        after: str | None = ""
        turns = 0
        while after is not None:
            after = await records.forget_empty(after=after, limit=10)
            turns += 1
        assert turns == 4
        assert await records.find_tag(ALPINE, "1") == TagRecord(TWO, 1.0)
        await records.record_link(Repository(HUB, "r03"), ONE, 1)
        assert await list_all_links(records, [HUB]) == [(f"{HUB}/r03", ONE)]

    # Together

    async def test_what_is_recorded_at_once_is_all_kept(self, records: Records) -> None:
        digests = [digest_of(b"%d" % number) for number in range(100)]
        async with asyncio.TaskGroup() as tasks:
            for digest in digests:
                tasks.create_task(records.record_link(ALPINE, digest, 1))
                tasks.create_task(records.record_sent(HUB, digest))
        assert {digest for _, digest in await list_all_links(records, [HUB])} == set(digests)
        link = await records.find_link(ALPINE, digests[-1])
        assert link == Link(1, is_confirmed=True, is_sent=True)

    async def test_a_value_that_cannot_be_kept_harms_nobody_else(self, records: Records) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(records.record_link(ALPINE, ONE, 10))
            with pytest.raises(StoreError):
                await records.record_link(ALPINE, TWO, 2**70)
        assert await records.find_link(ALPINE, ONE) is not None
        assert await records.find_link(ALPINE, TWO) is None
