"""What every implementation of `mirror.shared.ports.Ledger` must do.

class TestSomeLedger(LedgerConformance):
    @pytest.fixture
    async def ledgers(self) -> AsyncIterator[Ledgers]: ...
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mirror.oci.digest import digest_of
from mirror.shared.pieces import Piece
from mirror.shared.ports import Claimed, Ledger

DIGEST = digest_of(b"shared")
UPSTREAM, OTHER, PRIVATE = "docker.io", "quay.io", "private.example"
TERM, LEASE, PATIENCE = 60.0, 2.0, 300.0  # seconds
FIRST, SECOND = Piece(0, 10, "a/0"), Piece(10, 15, "a/10")


@dataclass(frozen=True, slots=True)
class Ledgers:
    """One for each of two mirrors, and what makes their leases end; PRIVATE is private to both.

    After `lapse` they are over since a second. After `stall`, turns have got nowhere for long.
    `troubled` is the second's, when the database was away a moment ago; `restarted` the first's,
    when that mirror was started anew: it begins when it is first asked anything.
    """

    one: Ledger
    two: Ledger
    troubled: Ledger
    lapse: Callable[[], Awaitable[None]]
    stall: Callable[[], Awaitable[None]]
    restarted: Ledger


async def _claim(ledger: Ledger, upstream: str = UPSTREAM) -> Claimed | None:
    return await ledger.claim(upstream, DIGEST, TERM, LEASE)


async def _get(ledger: Ledger, upstream: str = UPSTREAM) -> Claimed:
    claimed = await _claim(ledger, upstream)
    assert claimed is not None
    return claimed


async def _put_all(ledger: Ledger, turn: Claimed) -> None:
    for piece in (FIRST, SECOND):
        assert await ledger.record(turn.blob, turn.epoch, piece)
    assert await ledger.prove(turn.blob, turn.epoch, 15, [FIRST.key, SECOND.key])


class LedgerConformance:
    """Each test has ledgers of its own."""

    async def test_nothing_is_known_of_what_nobody_has_fetched(self, ledgers: Ledgers) -> None:
        assert await ledgers.one.find(UPSTREAM, DIGEST) is None
        assert await ledgers.one.look(12345, 0) is None

    async def test_one_has_the_turn_and_the_other_sees_what_comes(self, ledgers: Ledgers) -> None:
        turn = await _get(ledgers.one)
        assert await _claim(ledgers.two) is None
        assert await ledgers.one.tell_size(turn.blob, turn.epoch, 15)
        assert await ledgers.one.record(turn.blob, turn.epoch, FIRST)
        copy = await ledgers.two.find(UPSTREAM, DIGEST)
        assert copy is not None
        assert (copy.blob, copy.size, copy.is_proved, copy.is_free) == (turn.blob, 15, False, False)
        assert copy.pieces == (FIRST,)
        assert await ledgers.one.record(turn.blob, turn.epoch, SECOND)
        seen = await ledgers.two.look(turn.blob, FIRST.stop)
        assert seen is not None
        assert seen.pieces == (SECOND,)

    async def test_of_many_who_claim_at_once_one_gets_it(self, ledgers: Ledgers) -> None:
        ones = [ledgers.one if it % 2 else ledgers.two for it in range(10)]
        claims = await asyncio.gather(*map(_claim, ones))
        [claim] = [claim for claim in claims if claim is not None]
        assert await ledgers.one.renew(claim.blob, claim.epoch, TERM)

    async def test_what_has_lapsed_is_anybodys_and_its_pieces_stay(self, ledgers: Ledgers) -> None:
        old = await _get(ledgers.one)
        assert await ledgers.one.record(old.blob, old.epoch, FIRST)
        await ledgers.lapse()
        new = await _get(ledgers.two)
        assert new.epoch > old.epoch
        assert new.pieces == (FIRST,)

    async def test_after_a_loss_nothing_that_the_former_says_counts(self, ledgers: Ledgers) -> None:
        old = await _get(ledgers.one)
        await ledgers.lapse()
        new = await _get(ledgers.two)
        assert not await ledgers.one.renew(old.blob, old.epoch, TERM)
        assert not await ledgers.one.tell_size(old.blob, old.epoch, 99)
        assert not await ledgers.one.record(old.blob, old.epoch, FIRST)
        assert not await ledgers.one.prove(old.blob, old.epoch, 0, [])
        await ledgers.one.release(old.blob, old.epoch)
        await ledgers.one.abandon(old.blob, old.epoch)
        copy = await ledgers.one.look(new.blob, 0)
        assert copy is not None
        assert (copy.size, copy.pieces, copy.is_free) == (None, (), False)
        assert await ledgers.two.renew(new.blob, new.epoch, TERM)

    async def test_what_has_lapsed_and_nobody_has_claimed_may_be_renewed(
        self, ledgers: Ledgers
    ) -> None:
        turn = await _get(ledgers.one)
        await ledgers.lapse()
        assert await ledgers.one.renew(turn.blob, turn.epoch, TERM)
        assert await _claim(ledgers.two) is None

    async def test_what_nobody_could_renew_is_left_to_its_holder_for_a_further_lease(
        self, ledgers: Ledgers
    ) -> None:
        turn = await _get(ledgers.one)
        await ledgers.lapse()
        assert await _claim(ledgers.troubled) is None
        assert await ledgers.one.renew(turn.blob, turn.epoch, TERM)

    async def test_a_turn_that_gets_nowhere_is_anybodys_however_alive_its_holder_is(
        self, ledgers: Ledgers
    ) -> None:
        turn = await _get(ledgers.one)
        await ledgers.stall()
        assert await ledgers.one.renew(turn.blob, turn.epoch, TERM)
        copy = await ledgers.two.look(turn.blob, 0)
        assert copy is not None
        assert copy.is_free
        new = await _get(ledgers.two)
        assert not await ledgers.one.renew(turn.blob, turn.epoch, TERM)
        copy = await ledgers.one.look(new.blob, 0)
        assert copy is not None
        assert not copy.is_free

    async def test_whatever_is_recorded_is_getting_somewhere(self, ledgers: Ledgers) -> None:
        turn = await _get(ledgers.one)
        await ledgers.stall()
        assert await ledgers.one.record(turn.blob, turn.epoch, FIRST)
        assert await _claim(ledgers.two) is None
        await ledgers.stall()
        assert await ledgers.one.tell_size(turn.blob, turn.epoch, 15)
        assert await _claim(ledgers.two) is None

    async def test_a_mirror_that_was_restarted_goes_on_at_once(self, ledgers: Ledgers) -> None:
        old = await _get(ledgers.one)
        copy = await ledgers.restarted.find(UPSTREAM, DIGEST)
        assert copy is not None
        assert copy.is_free
        new = await _get(ledgers.restarted)
        assert new.epoch > old.epoch
        assert not await ledgers.one.renew(old.blob, old.epoch, TERM)

    async def test_two_of_one_name_do_not_take_turns_from_each_other(
        self, ledgers: Ledgers
    ) -> None:
        """Two downloads of one mirror, or the mirrors of a disk and its clone."""
        assert await ledgers.restarted.find(UPSTREAM, DIGEST) is None
        turn = await _get(ledgers.one)
        for ledger in (ledgers.one, ledgers.restarted):
            copy = await ledger.find(UPSTREAM, DIGEST)
            assert copy is not None
            assert not copy.is_free
            assert await _claim(ledger) is None
        assert await ledgers.one.renew(turn.blob, turn.epoch, TERM)

    async def test_what_is_released_is_anybodys(self, ledgers: Ledgers) -> None:
        turn = await _get(ledgers.one)
        await ledgers.one.release(turn.blob, turn.epoch)
        assert (await _get(ledgers.two)).epoch > turn.epoch

    async def test_what_is_proved_stays_and_nobody_claims_it(self, ledgers: Ledgers) -> None:
        turn = await _get(ledgers.one)
        await _put_all(ledgers.one, turn)
        copy = await ledgers.two.find(UPSTREAM, DIGEST)
        assert copy is not None
        assert (copy.is_proved, copy.size, copy.pieces) == (True, 15, (FIRST, SECOND))
        assert await _claim(ledgers.one) is None
        assert not await ledgers.one.record(turn.blob, turn.epoch, Piece(0, 10, "b/0"))

    async def test_pieces_that_are_not_vouched_for_or_not_all_prove_nothing(
        self, ledgers: Ledgers
    ) -> None:
        turn = await _get(ledgers.one)
        assert await ledgers.one.record(turn.blob, turn.epoch, FIRST)
        assert not await ledgers.one.prove(turn.blob, turn.epoch, 15, [FIRST.key, SECOND.key])
        assert await ledgers.one.record(turn.blob, turn.epoch, Piece(12, 15, "a/12"))  # a gap
        assert not await ledgers.one.prove(turn.blob, turn.epoch, 15, [FIRST.key, "a/12"])
        assert await ledgers.one.record(turn.blob, turn.epoch, Piece(10, 12, "a/10"))
        assert not await ledgers.one.prove(turn.blob, turn.epoch, 15, [FIRST.key, "a/12"])
        assert not await ledgers.one.prove(turn.blob, turn.epoch, 14, [FIRST.key, "a/10", "a/12"])
        assert await ledgers.one.prove(turn.blob, turn.epoch, 15, [FIRST.key, "a/10", "a/12"])

    async def test_a_piece_is_put_anew_in_the_place_of_a_formers(self, ledgers: Ledgers) -> None:
        old = await _get(ledgers.one)
        assert await ledgers.one.record(old.blob, old.epoch, FIRST)
        await ledgers.lapse()
        new = await _get(ledgers.two)
        again = Piece(0, 10, "b/0")
        assert await ledgers.two.record(new.blob, new.epoch, again)
        copy = await ledgers.one.look(new.blob, 0)
        assert copy is not None
        assert copy.pieces == (again,)

    async def test_an_empty_blob_is_proved_without_a_piece(self, ledgers: Ledgers) -> None:
        turn = await _get(ledgers.one)
        assert await ledgers.one.prove(turn.blob, turn.epoch, 0, [])

    async def test_upstreams_are_apart_until_it_is_proved(self, ledgers: Ledgers) -> None:
        turn = await _get(ledgers.one)
        assert await ledgers.one.record(turn.blob, turn.epoch, FIRST)
        assert await ledgers.two.find(OTHER, DIGEST) is None
        assert (await _get(ledgers.two, OTHER)).pieces == ()
        assert await ledgers.one.record(turn.blob, turn.epoch, SECOND)
        assert await ledgers.one.prove(turn.blob, turn.epoch, 15, [FIRST.key, SECOND.key])
        copy = await ledgers.two.find(OTHER, DIGEST)
        assert copy is not None
        assert (copy.upstream, copy.is_proved) == (UPSTREAM, True)

    async def test_a_private_upstreams_bytes_are_for_itself_alone(self, ledgers: Ledgers) -> None:
        await _put_all(ledgers.one, await _get(ledgers.one, PRIVATE))
        assert await ledgers.two.find(UPSTREAM, DIGEST) is None
        copy = await ledgers.two.find(PRIVATE, DIGEST)
        assert copy is not None
        assert copy.is_proved

    async def test_what_is_abandoned_is_gone_and_may_be_fetched_anew(
        self, ledgers: Ledgers
    ) -> None:
        turn = await _get(ledgers.one)
        assert await ledgers.one.record(turn.blob, turn.epoch, FIRST)
        await ledgers.one.abandon(turn.blob, turn.epoch)
        assert await ledgers.two.look(turn.blob, 0) is None
        new = await _get(ledgers.two)
        assert new.blob != turn.blob
        assert new.pieces == ()
        await _put_all(ledgers.two, new)
        await ledgers.one.abandon(new.blob, None)
        assert await ledgers.one.find(UPSTREAM, DIGEST) is None

    async def test_what_is_proved_may_become_one_object(self, ledgers: Ledgers) -> None:
        whole = Piece(0, 15, "whole/0")
        turn = await _get(ledgers.one)
        assert not await ledgers.one.join(turn.blob, whole)
        await _put_all(ledgers.one, turn)
        assert await ledgers.one.join(turn.blob, whole)
        copy = await ledgers.two.find(UPSTREAM, DIGEST)
        assert copy is not None
        assert (copy.is_proved, copy.pieces) == (True, (whole,))
