"""For how long a client's own authorization is believed."""

import base64
import json

import pytest

from mirror.oci.errors import Denied, ErrorCode, Missing, Unavailable
from mirror.oci.reference import Repository
from mirror.pull.grants import Grants, life_of
from mirror.sources.registry.endpoint import Scope
from tests.support.clock import FakeClock

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
    ids=range(18),
)
def test_a_token_is_believed_for_its_life(authorization: str, seconds: float) -> None:
    assert life_of(authorization, now=NOW) == pytest.approx(seconds)


class Upstream:
    """Counts how often it is asked, and answers as it is told."""

    def __init__(self, answer: Exception | None = None) -> None:
        self.asked = 0
        self.answer = answer

    async def probe(self) -> None:
        self.asked += 1
        if self.answer is not None:
            raise self.answer


async def test_upstream_is_asked_once_for_each_client_and_repository(clock: FakeClock) -> None:
    grants, upstream = Grants(clock), Upstream()
    for _ in range(2):
        await grants.require(Scope(APP, "Bearer anna"), upstream.probe)
    assert upstream.asked == 1
    await grants.require(Scope(APP, "Bearer bert"), upstream.probe)
    await grants.require(Scope(Repository("ghcr.io", "org/b"), "Bearer anna"), upstream.probe)
    await grants.require(Scope(APP, ""), upstream.probe)  # anonymous is somebody too
    assert upstream.asked == 4
    clock.advance(61)
    await grants.require(Scope(APP, "Bearer anna"), upstream.probe)
    assert upstream.asked == 5


async def test_where_the_mirrors_credentials_decide_nobody_is_asked(clock: FakeClock) -> None:
    upstream = Upstream(Denied(ErrorCode.DENIED, "no"))
    await Grants(clock).require(Scope(APP), upstream.probe)
    assert upstream.asked == 0


@pytest.mark.parametrize("answer", [Denied(ErrorCode.UNAUTHORIZED, "no"), Unavailable("down")])
async def test_neither_a_denial_nor_an_outage_is_a_permission(
    clock: FakeClock, answer: Exception
) -> None:
    grants, upstream = Grants(clock), Upstream(answer)
    for asked in (1, 2):
        with pytest.raises(type(answer)):
            await grants.require(Scope(APP, "Bearer bert"), upstream.probe)
        assert upstream.asked == asked


async def test_who_is_told_that_it_is_missing_has_not_been_let_in(clock: FakeClock) -> None:
    """Some registries say no in this way, and what they hide may be cached."""
    grants = Grants(clock)
    upstream = Upstream(Missing(ErrorCode.MANIFEST_UNKNOWN, "not there"))
    for _ in range(2):
        with pytest.raises(Missing):
            await grants.require(Scope(APP, "Bearer anna"), upstream.probe)
    assert upstream.asked == 2
