"""The views of what is in the cache: images, one of them, and its files."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
from cachetools import TTLCache

from mirror.contents import questions
from mirror.contents.contents import Contents
from mirror.contents.manifests import NotHere
from mirror.contents.models import Layer, Leaving
from mirror.control.api.using import Using
from mirror.oci.errors import StoreError

_WIDTH = 1000  # of the bars, in their own units
_GOOD_FOR = 10.0  # seconds for which it stands what would go next
_LEAST = 4  # of a bar that can still be seen


class Bar(NamedTuple):
    """A layer as a part of a line: where, how wide, and of which kind."""

    x: float
    width: float
    kind: str  # "only", "shared", "missing"
    layer: Layer


class ContentsViews:
    """Fills templates with what `contents` answers.

    `using` says what was pulled of it, `list_leaving` what would go next.
    """

    def __init__(
        self,
        contents: Contents,
        using: Using,
        list_leaving: Callable[[questions.ListLeaving], Awaitable[Leaving]],
        monotonic: Callable[[], float],
    ) -> None:
        self._contents = contents
        self._using = using
        self._list_leaving = list_leaving
        self._leaving: TTLCache[None, Leaving] = TTLCache(1, ttl=_GOOD_FOR, timer=monotonic)

    async def leaving(self) -> Leaving | None:
        """What would go next; None where that cannot be told."""
        try:
            if (found := self._leaving.get(None)) is None:
                found = self._leaving[None] = await self._list_leaving(questions.ListLeaving())
        except StoreError:
            return None
        return found

    async def fill(self, view: str, query: Mapping[str, str]) -> dict[str, Any]:
        """The values for a view; `query` is of its address. What cannot be told is `trouble`."""
        values: dict[str, Any] = {"trouble": None, "link": _link}
        fill = {"images": self._images, "image": self._image, "files": self._files}[view]
        known = {name: value for name, value in query.items() if name != "lang"}
        try:
            return values | await fill(known)
        except StoreError as error:
            return values | {"trouble": error.message}
        except (NotHere, ValueError) as error:  # msgspec's errors among them
            return values | {"trouble": str(error)}

    async def _images(self, query: Mapping[str, str]) -> dict[str, Any]:
        if query.get("repository"):
            of_one = _convert({"limit": "50", **query}, questions.ListImages)
            return {"repository": await self._using.list_images(of_one)}
        question = _convert({"limit": "50", **query}, questions.ListRepositories)
        found = await self._using.list_repositories(question)
        return {"repository": None, "found": found, "search": question.search}

    async def _image(self, query: Mapping[str, str]) -> dict[str, Any]:
        question = _convert(query, questions.GetImage)
        image = await self._contents.get_image(question)
        return {"image": image, "bars": _bars(image.layers)}

    async def _files(self, query: Mapping[str, str]) -> dict[str, Any]:
        question = _convert({"limit": "200", **query}, questions.ListFiles)
        found = await self._contents.list_files(question)
        return {"found": found, "question": question, "steps": _steps(question.path)}


def _convert(query: Mapping[str, str], wanted: type[Any]) -> Any:
    return msgspec.convert(dict(query), wanted, strict=False)


def _bars(layers: Sequence[Layer]) -> list[Bar]:
    total = sum(one.size for one in layers) or 1
    bars, x = list[Bar](), 0.0
    room = max(0, _WIDTH - _LEAST * len(layers))
    for one in layers:
        width = _LEAST + one.size / total * room
        kind = "missing" if not one.is_here else "shared" if one.shared_count else "only"
        bars.append(Bar(x, width, kind, one))
        x += width
    return bars


def _steps(path: str) -> list[tuple[str, str]]:
    """The directories on the way to a path, each with its name."""
    steps, at = [("/", "/")], ""
    for name in filter(None, path.split("/")):
        at += f"/{name}"
        steps.append((at, name))
    return steps


def _link(view: str, **parameters: object) -> str:
    return f"/page/{view}?{urlencode({it: value for it, value in parameters.items() if value})}"
