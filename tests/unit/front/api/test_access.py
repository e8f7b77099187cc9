"""Which addresses may pull."""

import pytest
from aiohttp.test_utils import make_mocked_request

from mirror.front.api.access import Access
from mirror.front.settings import Settings


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),  # as a socket for both families names it
        ("::ffff:11.1.2.3", False),
        ("fd00::1", True),
        ("fd01::1", False),
        ("fe80::1%eth0", True),
        ("", False),
        ("unix", False),
    ],
)
def test_an_address_is_looked_up_in_the_allowed_networks(address: str, *, may: bool) -> None:
    networks = ("10.0.0.0/8", "fd00::/16", "fe80::/10")
    access = Access(Settings(allowed_networks=networks))
    request = make_mocked_request("GET", "/v2/").clone(remote=address)
    assert access.admits_address(request) is may
