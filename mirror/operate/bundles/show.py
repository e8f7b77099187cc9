"""What a person sees of an export or an import: a bar, a line for each image, and a summary."""

from collections.abc import AsyncGenerator, Iterator
from functools import partial
from typing import TextIO

import msgspec
from rich.console import Console

from mirror.config.units import rounded_size
from mirror.control.units import printable
from mirror.control.verify import Total
from mirror.operate.bundles.steps import (
    Accompanied,
    BundleStep,
    Done,
    Exported,
    Imported,
    Lacking,
    Meter,
    Moved,
)
from mirror.operate.printing import json_text
from mirror.operate.progress import bar_of_bytes

_SHOWN = 5  # digests of what is missing; --json has them all


async def show(
    steps: AsyncGenerator[BundleStep], *, what: str, as_json: bool, to: TextIO, meter: Meter
) -> bool:
    """Show all steps; whether all is well. `as_json`: every step is a line of JSON instead."""
    console = Console(stderr=True)
    is_well = True
    with bar_of_bytes(what, console, is_shown=not as_json) as bar:
        task = bar.add_task(what, total=None)
        meter.advance = partial(bar.advance, task)
        async for step in steps:
            is_well = is_well and not _is_problem(step)
            # A bundle's images may be called anything.
            told = map(printable, _lines(step, what))
            lines = [json_text(msgspec.json.encode(step))] if as_json else told
            for line in lines:
                to.write(line + "\n")
                to.flush()
            if isinstance(step, Total):
                bar.update(task, total=step.bytes)
    return is_well


def _is_problem(step: BundleStep) -> bool:
    match step:
        case Imported(outcome=outcome):
            return outcome in {"partly", "incomplete", "refused"}
        case Accompanied(outcome=outcome):
            return outcome in {"incomplete", "refused"}
        case Moved(outcome=outcome):
            return outcome == "damaged"
        case _:
            return isinstance(step, Lacking)


def _lines(step: BundleStep, what: str) -> Iterator[str]:
    match step:
        case Exported():
            yield from _exported(step)
        case Accompanied():
            yield from _accompanied(step)
        case Lacking(image=image, missing=missing):
            yield f"{image}: not exported; it lacks"
            yield from _missing(missing)
        case Imported():
            yield from _imported(step)
        case Moved(digest=digest, outcome="damaged"):
            yield f"{digest}: what stands there in the bundle is something else; it is not kept"
        case Done():
            rest = "left out" if what == "export" else "were here already"
            yield (
                f"{step.images} images, {step.written} blobs ({rounded_size(step.bytes)})"
                f" written, {step.left_out} {rest}"
            )
        case _:
            pass


def _exported(step: Exported) -> Iterator[str]:
    platforms = f": {', '.join(step.platforms)}" if step.platforms else ""
    referrers = f"; {step.referrers} that refer to it" if step.referrers else ""
    yield f"{step.image}{platforms}{referrers}"
    if step.absent:
        yield "  not in the bundle, since it is not here:"
        yield from _missing(step.absent)


def _accompanied(step: Accompanied) -> Iterator[str]:
    match step.outcome:
        case "refused":
            yield f"{step.image}: what refers to it is not imported: {step.reason}"
        case "incomplete":
            yield f"{step.image}: of what refers to it, this is lacking"
            yield from _missing(step.missing)
        case "imported" | "newer":
            pass


def _imported(step: Imported) -> Iterator[str]:
    match step.outcome:
        case "imported":
            yield step.image
        case "newer":
            yield f"{step.image}: the tag was learnt here after the bundle was made, and stays so"
        case "refused":
            yield f"{step.image}: not imported: {step.reason}"
        case "partly":
            yield f"{step.image}: can be served for some platforms; for others it lacks"
            yield from _missing(step.missing)
        case "incomplete":
            yield f"{step.image}: cannot be served, and is not put on record; it lacks"
            yield from _missing(step.missing)


def _missing(missing: list[str]) -> Iterator[str]:
    yield from (f"  {one}" for one in missing[:_SHOWN])
    if len(missing) > _SHOWN:
        yield f"  and {len(missing) - _SHOWN} more (--json names them)"
