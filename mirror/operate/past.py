"""`mirror why` and `mirror top`: a running mirror is asked, a stopped one's history is read."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mirror.config import Config
from mirror.control.models import Arrivals, Pulls
from mirror.control.reasons import WORDS
from mirror.control.units import duration, size
from mirror.history.ports import Arrival, Pull, PullFilter, Waste
from mirror.history.sqlite import Bounds, SqliteHistory
from mirror.oci.errors import StoreError
from mirror.oci.image import Aliases, parse_image
from mirror.operate.asking import NoAnswer, RunningMirror
from mirror.operate.at_rest import require_store
from mirror.operate.printing import json_text

_wall_clock = time.time  # noqa: TID251 - commands live by the machine's clock
_DIGEST = 19  # characters: sha256: and twelve more
_MOST = 20
_WIDE = 200  # columns
_FOREVER = 1e12  # seconds

_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say of an image or a digest."""

    pulls: list[Pull]
    arrivals: list[Arrival]


def parse_pulled(name: str, aliases: Aliases) -> PullFilter:
    """Whose pulls a name means: of a digest, an image, or (without a tag) a repository.

    Raises:
        ValueError: It is no name.
    """
    if name.startswith(("sha256:", "sha512:")):
        return PullFilter(digest=name)
    repository, reference = parse_image(name, aliases)
    last = name.rpartition("/")[2]
    if "@" in last:
        return PullFilter(repository=str(repository), digest=str(reference))
    tag = str(reference) if ":" in last else None
    return PullFilter(repository=str(repository), reference=tag)


def find_why(config: Config, wanted: PullFilter) -> Why:
    """The last pulls of something, and where it came from. Raises NoAnswer."""
    running, digest = RunningMirror(config), wanted.digest or ""
    asked = {
        "repository": wanted.repository, "reference": wanted.reference, "digest": wanted.digest,
        "limit": _MOST,
    }  # fmt: skip

    def ask() -> Why:
        pulls = running.get(_path("/pulls", asked), Pulls).pulls
        if not digest:
            return Why(pulls=pulls, arrivals=[])
        arrivals = running.get(_path("/arrivals", {"digest": digest}), Arrivals).arrivals
        return Why(pulls=pulls, arrivals=arrivals)

    async def read(history: SqliteHistory) -> Why:
        return Why(
            pulls=await history.list_pulls(wanted, _MOST),
            arrivals=await history.list_arrivals(digest, _MOST) if digest else [],
        )

    return _ask_or_read(config, ask, read)


def find_waste(config: Config, seconds: float) -> Waste:
    """Where the line's bytes went, for so long. Raises NoAnswer."""
    running, now = RunningMirror(config), _wall_clock()
    since = max(0.0, now - seconds)
    return _ask_or_read(
        config,
        lambda: running.get(_path("/waste", {"since": since}), Waste),
        lambda history: history.find_waste(since, now, _MOST),
    )


def _ask_or_read(
    config: Config,
    ask: Callable[[], _Answer],
    read: Callable[[SqliteHistory], Coroutine[None, None, _Answer]],
) -> _Answer:
    file = config.store.root / "history.sqlite3"
    try:
        return ask()
    except NoAnswer as silence:
        with suppress(PermissionError):  # to be told below
            if silence.is_answered or not file.is_file():
                raise

    async def run() -> _Answer:
        await require_store(config.store.root)
        async with open_history(config, is_stopped=False) as history:
            return await read(history)

    try:
        return asyncio.run(run())
    except StoreError as error:
        raise NoAnswer(str(error)) from error


@asynccontextmanager
async def open_history(config: Config, *, is_stopped: bool) -> AsyncIterator[SqliteHistory]:
    """What a mirror has written down.

    Where it is not known that it `is_stopped`, as it is for whoever has the store's lock, a damaged
    file is left where it is, for the next start.

    Raises StoreError.
    """
    private = {name for name, its in config.upstream.items() if its.access == "client"}
    bounds = Bounds(_FOREVER, _FOREVER, config.history.max_size)
    file = config.store.root / "history.sqlite3"
    async with SqliteHistory.open(file, bounds, private=private, sets_aside=is_stopped) as history:
        yield history


def _path(path: str, query: Mapping[str, object]) -> str:
    asked = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(asked)}"


def show_why(found: Why, *, as_json: bool) -> None:
    """Print it."""
    parts: list[RenderableType] = [*map(_sentence, found.pulls)]
    if not found.pulls:
        parts.append("no pull of it is remembered (history.keep_pulls)")
    if found.arrivals:
        parts.append(_arrivals(found.arrivals, "came from"))
    _print(found, parts, as_json=as_json)


def show_top(waste: Waste, *, as_json: bool) -> None:
    """Print it."""
    _print(waste, [*_waste(waste)], as_json=as_json)


def _print(found: msgspec.Struct, parts: list[RenderableType], *, as_json: bool) -> None:
    if as_json:
        document = msgspec.json.format(msgspec.json.encode(found), indent=2)
        sys.stdout.write(json_text(document) + "\n")
        return
    console = Console(soft_wrap=True)
    if not console.is_terminal:  # who reads it takes lines as they are
        console.width = _WIDE
    for part in parts:
        console.print(part)


def _sentence(pull: Pull) -> Text:
    """A pull in two lines: what, and why."""
    name = pull.repository or f"others of {pull.upstream}"
    digest = pull.reference is not None and ":" in pull.reference
    what = name if pull.reference is None else f"{name}{'@' if digest else ':'}{pull.reference}"
    who = pull.client or "somebody"
    told = Text.assemble(
        (f"{_when(pull.began)}  ", "dim"), f"{what}  ", (str(pull.result), _STYLES[pull.failed > 0])
    )
    why = f"\n    {WORDS[pull.why]}"
    if pull.was is not None:
        why += f" (from {pull.was[:_DIGEST]} to {(pull.digest or '?')[:_DIGEST]})"
    told.append(why)
    cost = f"\n    {who}, {size(pull.served)} served"
    if pull.fetched:
        cost += f", {size(pull.fetched)} fetched from {pull.endpoint or pull.upstream}"
    cost += f", {duration(pull.seconds)}, {pull.requests} requests"
    if pull.failed:
        cost += f", {pull.failed} of them failed"
    if pull.is_private:
        cost += "; private (each client's own login decides)"
    return told.append(cost, "dim")


_STYLES = {False: "bold", True: "bold red"}


def _waste(waste: Waste) -> Iterator[RenderableType]:
    costs = Table("costs the line most", "fetched", "served", "saved", "wasted", "pulls", box=None)
    for it in waste.costs:
        costs.add_row(
            it.repository or f"others of {it.upstream}", size(it.fetched), size(it.served),
            size(it.saved), size(it.wasted), str(it.pulls),
        )  # fmt: skip
    yield costs if waste.costs else "nothing was fetched"
    if waste.again:
        again = Table("fetched more than once", "in", "size", "times", "too much", box=None)
        for one in waste.again:
            again.add_row(
                one.digest[:_DIGEST], one.repository or "-", size(one.size), str(one.arrivals),
                size(one.extra),
            )  # fmt: skip
        yield again
    if waste.unused:
        yield _arrivals(waste.unused, "fetched and never pulled")


def _arrivals(arrivals: list[Arrival], title: str) -> Table:
    table = Table(title, "in", "when", "from", "fetched", "of use", "took", "resumed", box=None)
    for it in arrivals:
        table.add_row(
            it.digest[:_DIGEST], it.repository or "-", _when(it.began), it.endpoint,
            size(it.fetched), size(it.used), duration(it.seconds), str(it.resumes),
        )  # fmt: skip
    return table


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
