"""What clients may write into a request's target costs no memory that lasts."""

import tracemalloc

import pytest

from mirror.oci.errors import RegistryError
from mirror.oci.request import parse_target


@pytest.mark.parametrize(
    ("parameters", "length", "requests"),
    [(31, 1, 1_000), (3, 1_000, 1_000), (3, 100, 8_000)],
    ids=["many", "long ones", "few"],
)
def test_a_target_of_many_parameters_is_not_remembered(
    parameters: int, length: int, requests: int
) -> None:
    value = "x" * length
    tracemalloc.start()
    try:
        for number in range(requests):
            query = "&".join(f"{number}-{index}={value}" for index in range(parameters))
            parse_target(f"/v2/app{number}/tags/list?{query}")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < (8 if requests > 1_000 else 1) * 2**20


def test_a_target_of_930_parameters_is_refused() -> None:
    query = "&".join(f"a{index}=b" for index in range(930))
    with pytest.raises(RegistryError, match="parameters"):
        parse_target(f"/v2/app/tags/list?{query}")
