"""What a person sees of work that takes its time: a bar, and whatever is not as it should be."""

import sys
from collections.abc import AsyncIterator, Iterator

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mirror.config.units import rounded_size
from mirror.control.units import printable
from mirror.control.verify import Checked, Failed, Step, Total, Unknown
from mirror.operate.printing import json_text
from mirror.storage.damage import Finding

_SAID = {
    Finding.DAMAGED: "is damaged, and set aside; it is fetched again when it is asked for",
    Finding.UNREADABLE: "cannot be read; the log says why",
    Finding.GONE: "has left meanwhile",
}


def bar_of_bytes(what: str, console: Console, *, is_shown: bool) -> Progress:
    """A bar of bytes, on a terminal, that is gone at its end."""
    return Progress(
        TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console, transient=True, disable=not (is_shown and console.is_terminal),
    )  # fmt: skip


async def show(steps: AsyncIterator[Step], *, what: str, as_json: bool) -> bool:
    """Show all steps: problems on standard output, a bar on a terminal; whether all is well.

    `as_json`: every step is a line of JSON instead.
    """
    console = Console(stderr=True)
    is_well = True
    blobs = size = 0
    with bar_of_bytes(what, console, is_shown=not as_json) as bar:
        task = bar.add_task(what, total=None)
        async for step in steps:
            is_well = is_well and not is_problem(step)
            if as_json:
                _say(json_text(msgspec.json.encode(step)))
            elif (line := _line(step)) is not None:
                _say(printable(line))
            if isinstance(step, Total):
                bar.update(task, total=step.bytes)
            elif isinstance(step, Checked):
                blobs, size = blobs + 1, size + step.size
                bar.update(task, completed=size)
    if is_well and not as_json:
        _say(f"all is well: {blobs} blobs, {rounded_size(size)}")
    return is_well


def is_problem(step: Step) -> bool:
    """Whether something is not as it should be."""
    if isinstance(step, Checked):
        return step.finding not in {Finding.RIGHT, Finding.GONE}
    return isinstance(step, Failed | Unknown)


def _line(step: Step) -> str | None:
    match step:
        case Checked(digest=digest, finding=finding) if finding in _SAID:
            return f"{digest} {_SAID[finding]}"
        case Unknown(name=name):
            return f"{name}: nothing of it is here"
        case Failed(reason=reason):
            return f"mirror: {reason}"
        case _:
            return None


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def as_they_come(steps: Iterator[Step]) -> AsyncIterator[Step]:
    """The steps of a mirror that runs: there is nothing else to do while it takes its time."""
    for step in steps:
        yield step
