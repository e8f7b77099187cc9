import json
from itertools import chain

import pytest
from hypothesis import example, given, strategies as st

from mirror.oci.request import Page
from mirror.sources.registry.tag_lists import read_strings, read_tags

STEP = 128  # bytes

_strings = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    ["\\", '"', '","', "]", "[", ",", "\\\\", '\\"', " "]
)
_indents = st.sampled_from((None, 0, 1))


@given(strings=st.lists(_strings, max_size=60), indent=_indents, escaped=st.booleans())
@example(strings=["\\" * 6, '"' * 6] * 19, indent=1, escaped=True)
def test_strings_are_the_same_however_they_are_sliced(
    *, strings: list[str], indent: int | None, escaped: bool
) -> None:
    array = json.dumps(strings, indent=indent, ensure_ascii=escaped).encode()
    assert [*chain.from_iterable(read_strings(array, STEP))] == strings


@given(st.binary(max_size=300), st.integers(1, 40))
def test_what_is_no_array_of_strings_is_refused(garbage: bytes, step: int) -> None:
    array = b"[" + garbage
    try:
        found = [*chain.from_iterable(read_strings(array, step))]
    except ValueError:
        return
    assert all(isinstance(one, str) for one in found)


@given(
    st.lists(st.sampled_from("abcdefgh"), unique=True),
    st.none() | st.integers(0, 9),
    st.none() | st.sampled_from("abcdefghz"),
)
def test_pages_of_a_registry_that_ignores_them_are_what_the_spec_says(
    names: list[str], n: int | None, last: str | None
) -> None:
    document = json.dumps({"tags": names}).encode()
    page = read_tags(None, Page(n, last), document)
    left = names[names.index(last) + 1 :] if last in names else names
    assert json.loads(page.content) == left[:n]
    if n and len(left) > n:
        assert page.next_query == {"n": str(n), "last": left[n - 1]}
    else:
        assert page.next_query is None


def test_a_string_that_is_longer_than_what_is_read_at_a_time_is_no_tag() -> None:
    with pytest.raises(ValueError, match="longer"):
        [*read_strings(json.dumps(["x" * STEP, "y"]).encode(), STEP)]
