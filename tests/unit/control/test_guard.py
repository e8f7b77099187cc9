"""Who is an operator; names and addresses."""

import pytest

from mirror.control.guard import is_loopback


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
