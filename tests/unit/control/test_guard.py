"""Who is an operator; names and addresses."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Request

from mirror.control.guard import Guard, is_loopback
from mirror.control.problems import Refusal
from tests.support.clock import FakeClock

HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.mark.parametrize(
    ("address", "is_it"),
    [
        ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False), ("10.0.0.1", False), ("mirror.example", False),
    ],
)  # fmt: skip
def test_only_this_host_reaches_a_loopback_address(address: str, is_it: bool) -> None:  # noqa: FBT001
    assert is_loopback(address) is is_it


def _request(token: str, address: str = HERE) -> Request:
    headers = {"Host": "127.0.0.1", "Authorization": f"Bearer {token}"}
    return make_mocked_request("GET", "/api/v1/status", headers).clone(remote=address)


async def _status(guard: Guard, request: Request) -> HTTPStatus:
    try:
        await guard.require_operator(request)
    except Refusal as refusal:
        return refusal.status
    return HTTPStatus.OK


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("open-sesame", encoding="utf-8")
    return tmp_path / "token"


def _guard(token_file: Path, clock: FakeClock) -> Guard:
    return Guard(names=[], token_file=token_file, is_reachable=True, key="", clock=clock.monotonic)


async def test_who_guesses_the_operators_token_has_to_wait_and_nobody_else(
    token_file: Path, clock: FakeClock
) -> None:
    guard = _guard(token_file, clock)
    for number in range(20):
        assert await _status(guard, _request(f"guess {number}")) is HTTPStatus.UNAUTHORIZED
    assert await _status(guard, _request("one more")) is HTTPStatus.TOO_MANY_REQUESTS
    assert await _status(guard, _request("open-sesame", THERE)) is HTTPStatus.OK
    assert await _status(guard, _request("open-sesame")) is HTTPStatus.TOO_MANY_REQUESTS
    clock.advance(7)
    assert await _status(guard, _request("open-sesame")) is HTTPStatus.OK


async def test_beyond_this_host_nobody_is_an_operator_unless_something_is_to_be_shown(
    token_file: Path,
) -> None:
    async def admits(address: str, header: str) -> bool:
        return header == "Basic YW5uYTpvcGVu"

    def guard(**proofs: Any) -> Guard:
        return Guard(names=[], is_reachable=True, key="of the store", **proofs)

    anna = make_mocked_request(
        "GET", "/", {"Host": "127.0.0.1", "Authorization": "Basic YW5uYTpvcGVu"}
    )
    assert await _status(guard(token_file=None), anna) is HTTPStatus.FORBIDDEN
    assert await _status(guard(token_file=token_file), anna) is HTTPStatus.UNAUTHORIZED
    assert await _status(guard(token_file=None, admits=admits), anna) is HTTPStatus.OK
    nobody = make_mocked_request("GET", "/", {"Host": "127.0.0.1", "Mirror-Key": ""})
    assert await _status(guard(token_file=None, admits=admits), nobody) is HTTPStatus.UNAUTHORIZED


async def test_an_operator_is_not_held_up_by_who_guesses_at_the_same_address(
    token_file: Path, clock: FakeClock
) -> None:
    guard = _guard(token_file, clock)
    assert await _status(guard, _request("open-sesame")) is HTTPStatus.OK
    for number in range(30):
        await _status(guard, _request(f"guess {number}"))
    assert await _status(guard, _request("open-sesame")) is HTTPStatus.OK


async def test_a_machine_that_shows_last_years_token_for_ever_locks_no_operator_out(
    token_file: Path, clock: FakeClock
) -> None:
    guard = _guard(token_file, clock)
    for _ in range(100):
        assert await _status(guard, _request("of last year")) is HTTPStatus.UNAUTHORIZED
    assert await _status(guard, _request("open-sesame")) is HTTPStatus.OK
