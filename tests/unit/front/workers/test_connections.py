"""Shares of connections."""

import pytest

from mirror.aio.addresses import client_of
from mirror.front.workers.connections import Connections, room_for


def test_a_client_has_its_share_and_no_more() -> None:
    connections = Connections(100, 3)
    assert [connections.admit("a") for _ in range(5)] == [True] * 3 + [False] * 2
    assert connections.admit("b")
    assert connections.count == 4
    connections.release("a")
    assert [connections.admit("a") for _ in range(2)] == [True, False]


def test_no_client_has_more_than_half_of_what_there_is() -> None:
    connections = Connections(10, 1000)
    assert [connections.admit("a") for _ in range(6)] == [True] * 5 + [False]
    assert [connections.admit("b") for _ in range(6)] == [True] * 5 + [False]
    assert connections.is_full


def test_what_has_ended_is_forgotten() -> None:
    connections = Connections(10, 1)
    for number in range(100):
        client = f"10.0.0.{number}"
        assert connections.admit(client)
        assert not connections.admit(client)
        assert connections.is_news(client)
        assert not connections.is_news(client)
        connections.release(client)
    assert connections.count == 0
    assert connections.is_news("10.0.0.1")


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_client_is_an_address_or_a_network_of_ipv6(host: str, client: str) -> None:
    assert client_of(host) == client


@pytest.mark.parametrize(("descriptors", "room"), [(256, 96), (1024, 480), (10, 1)])
def test_a_worker_has_room_for_as_many_as_its_descriptors_allow(
    descriptors: int, room: int
) -> None:
    assert room_for(descriptors) == room
