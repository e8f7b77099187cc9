"""Passwords: what a check costs, and whom it is made for first."""

import asyncio
import base64
import threading
from collections.abc import Callable

import bcrypt
import pytest

from mirror.front.api.passwords import Passwords
from mirror.oci.errors import ErrorCode, Unavailable
from tests.support.clock import FakeClock

HASHES = {name: bcrypt.hashpw(name.encode(), bcrypt.gensalt(4)) for name in ("anna", "bert")}
HERE, THERE = "10.0.0.1", "10.0.0.2"


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


class Checks:
    """Sees each check of a password, and lets it go on when it may."""

    def __init__(self, check: Callable[[bytes, bytes], bool]) -> None:
        self._check = check
        self.made: list[bytes] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def __call__(self, password: bytes, known: bytes) -> bool:
        self.made.append(password)
        assert self.may_go_on.wait(20)
        return self._check(password, known)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    checks = Checks(bcrypt.checkpw)
    monkeypatch.setattr(bcrypt, "checkpw", checks)
    return checks


async def begin(checks: Checks, count: int) -> None:
    """Return when so many checks have begun."""
    async with asyncio.timeout(10):
        while len(checks.made) < count:  # noqa: ASYNC110 - threads set no Event of the loop
            await asyncio.sleep(0.01)


async def test_right_and_wrong_are_told_apart(checks: Checks) -> None:
    passwords = Passwords(HASHES)
    assert await passwords.admits(HERE, basic("anna", "anna"))
    assert not await passwords.admits(HERE, basic("anna", "bert"))
    assert not await passwords.admits(HERE, basic("carl", "carl"))
    assert not await passwords.admits(HERE, "Bearer anna")


@pytest.mark.parametrize("name", ["anna", "carl"])
async def test_a_name_that_there_is_not_costs_as_many_checks_as_one_that_there_is(
    checks: Checks, name: str
) -> None:
    passwords = Passwords(HASHES)
    assert not await passwords.admits(HERE, basic(name, "wrong"))
    assert len(checks.made) == 1


async def test_what_was_right_or_wrong_a_moment_ago_is_not_checked_again(checks: Checks) -> None:
    passwords = Passwords(HASHES)
    for _ in range(3):
        assert await passwords.admits(HERE, basic("anna", "anna"))
        assert not await passwords.admits(HERE, basic("anna", "wrong"))
    assert len(checks.made) == 2


async def test_many_who_ask_the_same_at_once_wait_for_one_check(checks: Checks) -> None:
    passwords = Passwords(HASHES)
    asking = [passwords.admits(HERE, basic("anna", "anna")) for _ in range(20)]
    assert all(await asyncio.gather(*asking))
    assert len(checks.made) == 1


async def test_whoever_leaves_does_not_decide_for_those_who_ask_the_same(checks: Checks) -> None:
    passwords = Passwords(HASHES)
    checks.may_go_on.clear()
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(passwords.admits(HERE, basic("anna", "anna")))
        await begin(checks, 1)
        second = tasks.create_task(passwords.admits(HERE, basic("anna", "anna")))
        await asyncio.sleep(0)
        first.cancel()
        checks.may_go_on.set()
        assert await second


async def test_whoever_leaves_at_once_has_no_more_checked_than_whoever_waits(
    checks: Checks,
) -> None:
    passwords = Passwords(HASHES)
    checks.may_go_on.clear()
    guesses = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            guess = tasks.create_task(passwords.admits(HERE, basic("anna", f"guess {number}")))
            guesses.append(guess)
            await asyncio.sleep(0)  # it asks for a thread, or for its turn
            await begin(checks, min(number + 1, 2))
            guess.cancel()
        checks.may_go_on.set()
    assert len(checks.made) == 2
    assert all(guess.cancelled() for guess in guesses)
    assert await passwords.admits(HERE, basic("anna", "anna"))


@pytest.mark.parametrize(("guessed", "address"), [("anna", HERE), ("carl", HERE), ("bert", THERE)])
async def test_guessers_wait_for_their_turns_behind_each_other_and_nobody_else_behind_them(
    checks: Checks, guessed: str, address: str
) -> None:
    """They guess another's password, or a name, here; or this one's from elsewhere."""
    passwords = Passwords(HASHES)
    checks.may_go_on.clear()
    async with asyncio.TaskGroup() as tasks:
        guesses = [
            tasks.create_task(passwords.admits(address, basic(guessed, f"guess {number}")))
            for number in range(20)
        ]
        await begin(checks, 2)
        genuine = tasks.create_task(passwords.admits(HERE, basic("bert", "bert")))
        await asyncio.sleep(0)
        checks.may_go_on.set()
        assert await genuine
        assert not any(await asyncio.gather(*guesses))
    assert checks.made.index(b"bert") < 10  # of 21


async def test_who_was_wrong_too_often_has_to_wait_and_nobody_else(checks: Checks) -> None:
    clock = FakeClock()
    passwords = Passwords(HASHES, clock)
    for number in range(20):
        assert not await passwords.admits(HERE, basic("anna", f"guess {number}"))
    for header in (basic("anna", "one more"), basic("anna", "anna")):
        with pytest.raises(Unavailable) as refused:
            await passwords.admits(HERE, header)
        assert refused.value.code is ErrorCode.TOOMANYREQUESTS
        assert refused.value.retry_after == pytest.approx(6)
    assert len(checks.made) == 20
    assert await passwords.admits(HERE, basic("bert", "bert"))
    assert await passwords.admits(THERE, basic("anna", "anna"))
    with pytest.raises(Unavailable):  # else that anna is about would let her guesser in
        await passwords.admits(HERE, basic("anna", "anna"))
    clock.advance(7)
    assert not await passwords.admits(HERE, basic("anna", "one more"))


async def test_who_has_shown_the_right_one_from_there_is_not_held_up_by_a_guesser(
    checks: Checks,
) -> None:
    passwords = Passwords(HASHES, FakeClock())
    assert await passwords.admits(HERE, basic("anna", "anna"))
    for number in range(20):
        assert not await passwords.admits(HERE, basic("anna", f"guess {number}"))
    assert await passwords.admits(HERE, basic("anna", "anna"))


async def test_guesses_at_once_are_no_more_than_guesses_in_a_row(checks: Checks) -> None:
    passwords = Passwords(HASHES, FakeClock())
    guesses = [passwords.admits(HERE, basic("carl", f"guess {number}")) for number in range(60)]
    told = await asyncio.gather(*guesses, return_exceptions=True)
    assert sum(isinstance(one, Unavailable) for one in told) == 40
    assert len(checks.made) == 20


async def test_a_machine_that_shows_the_same_wrong_password_for_ever_locks_nobody_out(
    checks: Checks,
) -> None:
    passwords = Passwords(HASHES, FakeClock())
    for _ in range(100):
        assert not await passwords.admits(HERE, basic("anna", "of last year"))
    assert await passwords.admits(HERE, basic("anna", "anna"))


async def test_all_addresses_of_one_ipv6_network_are_one_guesser(checks: Checks) -> None:
    passwords = Passwords(HASHES, FakeClock())
    for number in range(20):
        await passwords.admits(f"2001:db8::{number + 1:x}", basic("anna", f"guess {number}"))
    with pytest.raises(Unavailable):
        await passwords.admits("2001:db8::ffff", basic("anna", "guess"))
    assert not await passwords.admits("2001:db8:0:1::1", basic("anna", "guess"))
