"""For how long a client's own authorization is believed."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest

from mirror.aio.guessing import Guesses
from mirror.aio.single_flight import SingleFlight
from mirror.oci.errors import Denied, ErrorCode, Missing, Unavailable
from mirror.oci.reference import Repository
from mirror.pull.grants import Grants, life_of
from mirror.sources.registry.endpoint import Scope
from tests.support.clock import FakeClock
from tests.support.tasks import owned_tasks

NOW = 1_800_000_000.0
APP = Repository("ghcr.io", "org/app")


def jwt(claims: object) -> str:
    return raw_jwt(json.dumps(claims).encode())


def raw_jwt(payload: bytes) -> str:
    return f"Bearer e30.{base64.urlsafe_b64encode(payload).decode().rstrip('=')}.signature"


@pytest.mark.parametrize(
    ("authorization", "seconds"),
    [
        (jwt({"exp": NOW + 300}), 300),
        (jwt({"exp": NOW + 1e6}), 3600),  # nobody is believed for longer than an hour
        (jwt({"exp": NOW - 1}), 0),
        (jwt({"exp": NOW + 300, "iat": NOW}), 300),
        (jwt({"exp": NOW + 900, "iat": NOW + 600}), 300),  # this clock is behind: its whole life
        (jwt({"exp": NOW + 300, "iat": None}), 60),
        (jwt({"exp": str(NOW + 5)}), 5),
        (jwt({}), 60),
        (jwt({"exp": None}), 60),
        (jwt([]), 60),
        (jwt("exp"), 60),
        (raw_jwt(b'{"exp": 1' + b"0" * 400 + b"}"), 60),
        (raw_jwt(b'{"exp": Infinity}'), 3600),
        (raw_jwt(b'{"exp": NaN}'), 0),
        (raw_jwt(b"[" * 5000), 60),
        (raw_jwt(b"\xff"), 60),
        ("Bearer a.b", 60),
        ("Bearer a.\u00e9.c", 60),
        ("Bearer opaque", 60),
        ("Basic YW5uYTpzZWNyZXQ=", 60),
        ("", 60),
    ],
    ids=range(21),
)
def test_a_token_is_believed_for_its_life(authorization: str, seconds: float) -> None:
    assert life_of(authorization, now=NOW) == pytest.approx(seconds)


class Upstream:
    """Counts how often it is asked, and answers as it is told, once it may."""

    def __init__(self, answer: Exception | None = None) -> None:
        self.asked = 0
        self.answer = answer
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def probe(self) -> None:
        self.asked += 1
        await self.may_answer.wait()
        if self.answer is not None:
            raise self.answer


@pytest.fixture
async def grants(clock: FakeClock) -> AsyncIterator[Grants]:
    async with owned_tasks() as tasks:
        yield Grants(
            SingleFlight(tasks), guesses=Guesses(clock), longest=600, clock=clock,
            monotonic=clock.monotonic,
        )  # fmt: skip


async def test_upstream_is_asked_once_for_each_client_and_repository(
    clock: FakeClock, grants: Grants
) -> None:
    upstream = Upstream()
    for _ in range(2):
        await grants.require(Scope(APP, "Bearer anna"), "tags", upstream.probe)
    assert upstream.asked == 1
    await grants.require(Scope(APP, "Bearer bert"), "tags", upstream.probe)
    other = Scope(Repository("ghcr.io", "org/b"), "Bearer anna")
    await grants.require(other, "tags", upstream.probe)
    await grants.require(Scope(APP, ""), "tags", upstream.probe)  # anonymous is somebody too
    assert upstream.asked == 4
    clock.advance(61)
    await grants.require(Scope(APP, "Bearer anna"), "tags", upstream.probe)
    assert upstream.asked == 5


async def test_upstream_is_asked_once_however_many_requests_a_client_begins_with(
    grants: Grants,
) -> None:
    upstream = Upstream()
    upstream.may_answer.clear()
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(
                grants.require(Scope(APP, "Bearer anna"), f"blob {number}", upstream.probe)
            )
        await asyncio.sleep(0)
        upstream.may_answer.set()
    assert upstream.asked == 1


async def test_what_one_request_finds_missing_another_may_have(grants: Grants) -> None:
    absent = Upstream(Missing(ErrorCode.BLOB_UNKNOWN, "not there"))
    present = Upstream()
    absent.may_answer.clear()
    scope = Scope(APP, "Bearer anna")
    async with asyncio.TaskGroup() as tasks:
        refused = tasks.create_task(_is_refused(grants, scope, "blob 1", absent))
        await asyncio.sleep(0)
        tasks.create_task(grants.require(scope, "blob 2", present.probe))
        await asyncio.sleep(0)
        absent.may_answer.set()
    assert refused.result()
    assert (absent.asked, present.asked) == (1, 1)


async def _is_refused(grants: Grants, scope: Scope, what: str, upstream: Upstream) -> bool:
    try:
        await grants.require(scope, what, upstream.probe)
    except Missing:
        return True
    return False


async def test_a_grant_ends_when_it_must_though_the_clock_is_set_back(
    clock: FakeClock, grants: Grants
) -> None:
    upstream = Upstream()
    scope = Scope(APP, jwt({"exp": NOW + 300, "iat": NOW}))
    await grants.require(scope, "tags", upstream.probe)
    clock.set_back(3600)
    clock.advance(299)
    await grants.require(scope, "tags", upstream.probe)
    assert upstream.asked == 1
    clock.advance(2)
    await grants.require(scope, "tags", upstream.probe)
    assert upstream.asked == 2


async def test_where_the_mirrors_credentials_decide_nobody_is_asked(grants: Grants) -> None:
    upstream = Upstream(Denied(ErrorCode.DENIED, "no"))
    await grants.require(Scope(APP), "tags", upstream.probe)
    assert upstream.asked == 0


@pytest.mark.parametrize("answer", [Denied(ErrorCode.UNAUTHORIZED, "no"), Unavailable("down")])
async def test_neither_a_denial_nor_an_outage_is_a_permission(
    grants: Grants, answer: Exception
) -> None:
    upstream = Upstream(answer)
    for asked in (1, 2):
        with pytest.raises(type(answer)):
            await grants.require(Scope(APP, "Bearer bert"), "tags", upstream.probe)
        assert upstream.asked == asked


async def test_who_is_told_that_it_is_missing_has_not_been_let_in(grants: Grants) -> None:
    """Some registries say no in this way, and what they hide may be cached."""
    upstream = Upstream(Missing(ErrorCode.MANIFEST_UNKNOWN, "not there"))
    for _ in range(2):
        with pytest.raises(Missing):
            await grants.require(Scope(APP, "Bearer anna"), "tags", upstream.probe)
    assert upstream.asked == 2


async def test_no_grant_outlives_access_for_whatever_the_token_says(
    clock: FakeClock, grants: Grants
) -> None:
    upstream = Upstream()
    scope = Scope(APP, jwt({"exp": NOW + 3000, "iat": NOW}))
    await grants.require(scope, "tags", upstream.probe)
    clock.advance(599)
    await grants.require(scope, "tags", upstream.probe)
    assert upstream.asked == 1
    clock.advance(2)
    await grants.require(scope, "tags", upstream.probe)
    assert upstream.asked == 2
