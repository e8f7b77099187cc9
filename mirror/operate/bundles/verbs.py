"""`mirror export` and `mirror import`: with a mirror that runs, or a store where none does."""

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mirror.config import Config
from mirror.control.bundles import Depot
from mirror.control.depot import StoreDepot
from mirror.oci.descriptor import parse_platform
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError
from mirror.oci.image import parse_image
from mirror.oci.layout import BadLayout
from mirror.operate.asking import NoAnswer, RunningMirror
from mirror.operate.at_rest import open_at_rest
from mirror.operate.bundles.archive import Archive
from mirror.operate.bundles.exporting import LeftOut, becoming, export
from mirror.operate.bundles.importing import import_bundle
from mirror.operate.bundles.remote import RemoteDepot
from mirror.operate.bundles.show import show
from mirror.operate.bundles.steps import BundleStep, Lacking, Meter
from mirror.pull.arriving import Arriving
from mirror.pull.memory import Memory
from mirror.records.alone import Alone
from mirror.storage.files import InUse

_STANDARD_OUTPUT = "-"
_wall_clock = time.time  # noqa: TID251 - commands live by the machine's clock


class Failed(Exception):
    """It could not be done; in words for an operator."""


class _Lacking(Exception):
    """No bundle is to be written; what is lacking has been told."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be exported, and to where; `since` in seconds since the epoch."""

    images: Sequence[str]
    platforms: Sequence[str]
    output: str
    bases: Sequence[Path]
    since: float
    as_json: bool


async def run_export(config: Config, wanted: Export) -> bool:
    """Write a bundle; whether it is written. Raises Failed."""
    meter = Meter()
    is_piped = wanted.output == _STANDARD_OUTPUT
    if is_piped and sys.stdout.isatty():
        raise Failed("a bundle is nothing for a terminal: name a file, or pipe it on")
    with _explained():
        for image in wanted.images:
            parse_image(image)
        for platform in wanted.platforms:
            parse_platform(platform)
        left_out = LeftOut(_digests(wanted.bases), wanted.since)
        async with open_depot(config) as depot:
            try:
                with _opened(wanted.output) as file:
                    steps = export(
                        depot, wanted.images, wanted.platforms,
                        left_out=left_out, write=file.write, made_at=_wall_clock(), meter=meter,
                    )  # fmt: skip
                    to = sys.stderr if is_piped else sys.stdout
                    async with aclosing(_until_lacking(steps)) as told:
                        return await show(
                            told, what="export", as_json=wanted.as_json, to=to, meter=meter
                        )
            except _Lacking:
                return False


async def run_import(config: Config, bundle: Path, *, as_json: bool) -> bool:
    """Take a bundle in; whether all of its images can be served. Raises Failed."""
    meter = Meter()
    with _explained(), Archive.open(bundle) as archive:
        async with (
            open_depot(config, is_told=config.shared is not None) as depot,
            aclosing(import_bundle(depot, archive, meter)) as steps,
        ):
            return await show(steps, what="import", as_json=as_json, to=sys.stdout, meter=meter)


@asynccontextmanager
async def open_depot(config: Config, *, is_told: bool = False) -> AsyncIterator[Depot]:
    """The store that a configuration names, by way of the mirror that uses it, if one does.

    One has to where other mirrors are to be told (`is_told`). Raises StoreError, NoAnswer.
    """
    async with AsyncExitStack() as stack:
        try:
            store, records = await stack.enter_async_context(open_at_rest(config))
        except InUse:
            remote = RemoteDepot.open(RunningMirror(config))
            yield await stack.enter_async_context(remote)
            return
        if is_told:
            raise NoAnswer(
                "this mirror is one of several ([shared]): start it, so that the others are told of"
                " what is imported"
            )
        memory = Memory(0, missing_for=0.0, clock=time.monotonic)
        yield StoreDepot(
            store, records, memory, config.upstream, arriving=Arriving(time.monotonic),
            forget=memory.forget, note_tag=lambda *_: None, clock=_wall_clock,
            fleet=Alone(), others=None,
        )  # fmt: skip


@contextmanager
def _opened(output: str) -> Iterator[BinaryIO]:
    if output == _STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with becoming(Path(output)) as file:
        yield file


async def _until_lacking(steps: AsyncGenerator[BundleStep]) -> AsyncGenerator[BundleStep]:
    """All of them; raises _Lacking at the end where there is no bundle."""
    is_lacking = False
    async with aclosing(steps):
        async for step in steps:
            is_lacking = is_lacking or isinstance(step, Lacking)
            yield step
    if is_lacking:
        raise _Lacking


def _digests(bundles: Sequence[Path]) -> set[Digest]:
    found: set[Digest] = set()
    for path in bundles:
        with Archive.open(path) as archive:
            found |= archive.digests
    return found


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (BadLayout, NoAnswer, RegistryError, ValueError) as error:
        raise Failed(str(error)) from error
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise Failed(f"{what}{error.strerror or error}") from error
