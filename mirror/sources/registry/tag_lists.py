"""Lists of tags, as registries send them: read in slices, and made into a page. Pure.

Some registries send all of their tags at once, which may be 30 MB. A call that reads all of that
keeps the interpreter to itself, also from another thread: a slice is what may be read at a time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from mirror.oci.request import Page
from mirror.sources.registry.headers import field_value
from mirror.sources.registry.reading import Senseless, read_json

SLICE = 2**18
"""Bytes that are read at a time."""

LARGEST_PAGE = 8 * 2**20
"""Bytes of names in an answer, but for a slice; the others are on the next page."""

_WHAT = "upstream's list of tags"
# As many strings, each with its comma, as there are before the end of the slice; linear.
_STRINGS = re.compile(rb'(?:\s*+"(?:[^"\\]++|\\.)*+"\s*+,)*+', re.DOTALL)


@dataclass(frozen=True, slots=True)
class TagsPage:
    """A page of tags, as a JSON array, and the query that leads to the next one.

    `is_fallback`: of an endpoint that may tell only in an outage.
    """

    content: bytes
    next_query: dict[str, str] | None
    is_fallback: bool = False


def read_tags(following: dict[str, str] | None, page: Page, document: bytes) -> TagsPage:
    """What upstream's answer has of `page`; `following` is the next one by its own `Link`.

    Raises:
        Senseless: It is no list of tags.
    """
    is_whole = following is None  # some registries ignore n and last, and send everything
    found, behind_last = _Names(page.n if is_whole else None), None
    for slice_ in _slices(document):
        # What is no tag by any grammar can be asked for by nobody.
        names = [name for name in slice_ if isinstance(name, str) and field_value(name)]
        if behind_last is not None:
            behind_last.add(names)
        elif is_whole and page.last is not None and page.last in names:
            behind_last = _Names(page.n)
            behind_last.add(names[names.index(page.last) + 1 :])
        found.add(names)
    chosen = behind_last or found
    if chosen.cut_at is not None:
        following = {"n": str(page.n)} if page.n is not None else {}
        following["last"] = chosen.cut_at
    return TagsPage(b"[" + b",".join(chosen.pieces) + b"]", following)


class _Names:
    """The first `most` names, or those that fit into a page, encoded as they come."""

    def __init__(self, most: int | None) -> None:
        self.pieces: list[bytes] = []  # without brackets
        self.cut_at: str | None = None  # the last of these, if there were more
        self._left = most
        self._size = 0
        self._last: str | None = None

    def add(self, names: list[str]) -> None:
        if self.cut_at is not None or not names:
            return
        kept = names if self._left is None else names[: self._left]
        if not kept or self._size > LARGEST_PAGE:
            self.cut_at = self._last
            return
        self.pieces.append(msgspec.json.encode(kept)[1:-1])
        self._size += len(self.pieces[-1])
        self._last = kept[-1]
        if self._left is not None:
            self._left -= len(kept)
        if len(kept) < len(names):
            self.cut_at = self._last


class _TagList(msgspec.Struct):
    tags: msgspec.Raw


def _slices(document: bytes) -> Iterator[list[object]]:
    if len(document) <= SLICE:
        yield _small(document)
        return
    try:
        array = bytes(msgspec.json.decode(document, type=_TagList).tags)
        yield from read_strings(array)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise Senseless(f"{_WHAT} makes no sense") from error


def _small(document: bytes) -> list[object]:
    answer = read_json(document, what=_WHAT)
    names = answer.get("tags", ...) if isinstance(answer, dict) else ...
    if names is None:
        return []  # distribution says so where there are none
    if not isinstance(names, list):
        raise Senseless(f"{_WHAT} makes no sense")
    return names


def read_strings(array: bytes, at_a_time: int = SLICE) -> Iterator[list[object]]:
    """The strings of a JSON array, so many bytes of them at a time.

    Raises:
        ValueError: It holds something else, or a string that is longer than that.
    """
    if array == b"null":
        return
    if not array.startswith(b"["):
        raise ValueError("no array")
    position = 1
    while len(array) - position > at_a_time:
        match = _STRINGS.match(array, position, position + at_a_time)
        if match is None or match.end() == position:
            raise ValueError("no strings, or one that is longer than any tag")
        piece = array[position : match.end()].rstrip()[:-1]
        yield msgspec.json.decode(b"[%b]" % piece, type=list[str])
        position = match.end()
    yield msgspec.json.decode(b"[" + array[position:], type=list[str])
