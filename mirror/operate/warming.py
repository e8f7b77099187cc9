"""`mirror warm`: has a running mirror fetch images, and shows how far it has come."""

import sys
import time
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from mirror.control import acts
from mirror.control.units import duration, printable, size
from mirror.operate.asking import NoAnswer, RunningMirror
from mirror.operate.printing import json_text

_EVERY = 0.5  # seconds between looks
_DIGEST = 19  # characters: sha256: and twelve more


def warm(
    mirror: RunningMirror, images: Sequence[str], platforms: Sequence[str], *, as_json: bool
) -> bool:
    """Have images fetched; whether all are here then. Raises NoAnswer.

    Who leaves (Ctrl-C) does not stop it.
    """
    wanted = acts.ToWarm(images=list(images), platforms=list(platforms))
    job = mirror.post("/warm", wanted, acts.WarmJob)
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=console, transient=True, disable=as_json or not console.is_terminal,
    )  # fmt: skip
    told = _Told(as_json=as_json)
    with bars:
        shown = dict[str, TaskID]()
        while True:
            job = _find(mirror, job.name)
            told.tell(job)
            _draw(bars, shown, job)
            if job.ended_at is not None:
                break
            time.sleep(_EVERY)
    told.sum_up(job)
    return all(image.state == "done" for image in job.images)


def _find(mirror: RunningMirror, name: str) -> acts.WarmJob:
    jobs = mirror.get("/warm", acts.Warmings).jobs
    found = next((job for job in jobs if job.name == name), None)
    if found is None:
        raise NoAnswer("the mirror knows no more of it")
    return found


class _Told:
    """A line for each image that is over, once."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._images: set[str] = set()

    def tell(self, job: acts.WarmJob) -> None:
        """Tell of what is new."""
        for one in job.images:
            if one.state in {"done", "failed"} and one.image not in self._images:
                self._images.add(one.image)
                self._say(
                    json_text(msgspec.json.encode(one)) if self._as_json else printable(_line(one))
                )

    def sum_up(self, job: acts.WarmJob) -> None:
        """Tell of all of it."""
        if self._as_json:
            return
        here = sum(it.here_bytes for it in job.images)
        fetched = sum(it.fetched_bytes for it in job.images)
        done = sum(it.state == "done" for it in job.images)
        seconds = (job.ended_at or job.started_at) - job.started_at
        self._say(
            f"{done} of {len(job.images)} images are here: {size(here)} were already,"
            f" {size(fetched)} came in {duration(seconds)}"
        )

    def _say(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _line(one: acts.WarmedImage) -> str:
    if one.state == "failed":
        return f"{one.image}: failed: {one.trouble}"
    return (
        f"{one.image}: {size(one.here_bytes)} were here ({one.here_blobs} blobs),"
        f" {size(one.fetched_bytes)} came ({one.fetched_blobs}) in {one.seconds:.1f} s"
    )


def _draw(bars: Progress, shown: dict[str, TaskID], job: acts.WarmJob) -> None:
    """A bar for each layer under way."""
    layers = {
        f"{image.image} {layer.digest[:_DIGEST]}": layer
        for image in job.images
        for layer in image.layers
    }
    for name in shown.keys() - layers.keys():
        bars.remove_task(shown.pop(name))
    for name, layer in layers.items():
        if name not in shown:
            shown[name] = bars.add_task(name, total=layer.size or None)
        bars.update(shown[name], completed=layer.written)
