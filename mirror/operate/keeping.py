"""Pins, removal and collecting: by the mirror that runs, or on the store of one that does not."""

import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from mirror.aio.tasks import owned_tasks
from mirror.config import Config, aliases_of
from mirror.control import acts
from mirror.control.keeping import Keeping
from mirror.control.units import printable, size
from mirror.oci.errors import Unavailable
from mirror.oci.image import full_name
from mirror.operate.asking import Refused, RunningMirror
from mirror.operate.at_rest import open_at_rest
from mirror.operate.printing import json_text
from mirror.pull.collecting import Collecting
from mirror.pull.forget import Forgetting
from mirror.pull.memory import Memory
from mirror.pull.not_done import NotDone
from mirror.pull.pins import Pinning
from mirror.pull.removal import Removal
from mirror.pull.retention import Retention
from mirror.pull.versions import Version
from mirror.records.ports import Records
from mirror.records.sqlite import SqliteRecords
from mirror.records.wishes import Wishes
from mirror.storage.files import InUse
from mirror.telemetry.metrics import Metrics

_wall_clock = time.time  # noqa: TID251 - commands live by the machine's clock


class Keeper(Protocol):
    """What commands ask for, whoever does it; see `mirror.control.keeping`."""

    async def list_pins(self) -> acts.Pins:
        """All pins."""

    async def pin(self, wanted: acts.ToPin) -> acts.Pins:
        """Pin an image."""

    async def unpin(self, wanted: acts.ImageName) -> acts.Pins:
        """Pin one no longer."""

    async def remove(self, wanted: acts.ImageName) -> acts.Removed:
        """Remove an image."""

    async def collect(self, wanted: acts.ToCollect) -> acts.Collected:
        """Have go what nothing names."""


class _Running:
    """The mirror that runs; what it refuses is NoAnswer."""

    def __init__(self, mirror: RunningMirror) -> None:
        self._mirror = mirror

    async def list_pins(self) -> acts.Pins:
        return self._mirror.get("/pins", acts.Pins)

    async def pin(self, wanted: acts.ToPin) -> acts.Pins:
        return self._mirror.post("/pins", wanted, acts.Pins)

    async def unpin(self, wanted: acts.ImageName) -> acts.Pins:
        return self._mirror.post("/pins/remove", wanted, acts.Pins)

    async def remove(self, wanted: acts.ImageName) -> acts.Removed:
        return self._mirror.post("/images/remove", wanted, acts.Removed)

    async def collect(self, wanted: acts.ToCollect) -> acts.Collected:
        return self._mirror.post("/gc", wanted, acts.Collected)


@asynccontextmanager
async def keeper(config: Config) -> AsyncIterator[Keeper]:
    """Who does it: the mirror that runs, where one uses the store; else this process.

    Inside the block, what the mirror does not do raises `asking.Refused`.

    Raises:
        StoreError: There is no store, or it cannot be used.
    """
    running = RunningMirror(config)
    try:
        async with _at_rest(config) as keeping:
            yield keeping
    except InUse:
        yield _Running(running)


@asynccontextmanager
async def _at_rest(config: Config) -> AsyncIterator[Keeping]:
    metrics, forgetting = Metrics(), Forgetting()
    async with (
        open_at_rest(config) as (store, records),
        _told_later(config, records) as (said, wishes),
        owned_tasks(metrics.faults.note) as tasks,
    ):
        memory = Memory(0, missing_for=0.0, clock=time.monotonic)
        retention = Retention(
            store, records, memory, forget_after=config.store.forget_after, clock=_wall_clock,
            metrics=metrics, pause=0.0,
        )  # fmt: skip
        nobody = _NobodyToAsk()
        pinning = Pinning(
            config.pin, upstreams=config.upstream, wishes=wishes, store=store,
            records=records, versions=nobody, fills=nobody, registries={}, tasks=tasks,
            metrics=metrics, random=random.Random(),  # noqa: S311 - for jitter
        )  # fmt: skip
        await pinning.begin()
        yield Keeping(
            upstreams=config.upstream, store=store, pinning=pinning,
            removal=Removal(store, said, forgetting),
            collecting=Collecting(
                store, records, retention, upstreams=config.upstream.keys(), arriving=(),
                keep_partial_for=config.fill.keep_partial_for, clock=_wall_clock,
            ),
        )  # fmt: skip


@asynccontextmanager
async def _told_later(config: Config, own: SqliteRecords) -> AsyncIterator[tuple[Records, Wishes]]:
    """What others are to know of what is done, they are told at the mirror's next start."""
    if config.shared is None:
        yield own, own.wishes
        return
    from mirror.joining import tell_later  # noqa: PLC0415 - only where it is asked for

    async with tell_later(own, config, clock=_wall_clock) as both:
        yield both


class _NobodyToAsk:
    """Where no mirror runs, upstream is not asked; it will be when one does."""

    async def find(self, *asked: object) -> Version:
        """There is no answer."""
        raise Unavailable(f"no mirror runs: {asked[0]} is not asked for")

    async def fetch(self, *asked: object) -> None:
        """Nothing is fetched."""


async def show_pins(config: Config, *, as_json: bool) -> bool:
    """List the pins. Raises NoAnswer, StoreError."""
    async with keeper(config) as its:
        pins = (await its.list_pins()).pins
    for pin in pins:
        _say(pin if as_json else _described(pin))
    if not pins and not as_json:
        _say("nothing is pinned")
    return True


async def pin(
    config: Config, images: Sequence[str], platforms: Sequence[str], *, as_json: bool
) -> bool:
    """Pin images; whether all are. Raises NoAnswer, StoreError."""

    async def one(its: Keeper, image: str) -> None:
        before = {it.image for it in (await its.list_pins()).pins}
        after = (await its.pin(acts.ToPin(image=image, platforms=list(platforms)))).pins
        for pin in after:
            if pin.image not in before or pin.image == full_name(
                image, aliases_of(config.upstream)
            ):
                _say(pin if as_json else _described(pin))

    return await _each(config, images, one)


async def unpin(config: Config, images: Sequence[str], *, as_json: bool) -> bool:
    """Pin images no longer; whether none is any more. Raises NoAnswer, StoreError."""

    async def one(its: Keeper, image: str) -> None:
        before = {pin.image: pin for pin in (await its.list_pins()).pins}
        after = {pin.image for pin in (await its.unpin(acts.ImageName(image=image))).pins}
        for gone in before.keys() - after:
            _say(before[gone] if as_json else f"{gone}: pinned no longer")

    return await _each(config, images, one)


async def remove(config: Config, images: Sequence[str], *, as_json: bool) -> bool:
    """Remove images; whether all have gone. Raises NoAnswer, StoreError."""

    async def one(its: Keeper, image: str) -> None:
        gone = await its.remove(acts.ImageName(image=image))
        kept = f"; {gone.kept} that something else needs stay" if gone.kept else ""
        said = f"{image}: {gone.blobs} blobs removed, {size(gone.bytes)}{kept}"
        _say(gone if as_json else said)

    return await _each(config, images, one)


async def collect(config: Config, *, is_dry: bool, as_json: bool) -> bool:
    """Have go what nothing on record names. Raises NoAnswer, StoreError."""
    try:
        async with keeper(config) as its:
            gone = await its.collect(acts.ToCollect(dry_run=is_dry))
    except NotDone as error:
        _complain(str(error))
        return False
    if as_json:
        _say(gone)
        return True
    rows = (
        ("blobs that nothing names", gone.blobs, gone.bytes),
        ("downloads that nobody continues", gone.partials, gone.partial_bytes),
        ("digests of which all is forgotten", gone.records, None),
        ("set aside beyond its bound", None, gone.quarantine_bytes),
        ("given back by the databases", None, gone.database_bytes),
    )
    for what, count, freed in rows:
        parts = ([str(count)] if count is not None else []) + ([size(freed)] if freed else [])
        _say(f"{what}: {', '.join(parts) or '0 B'}")
    if is_dry:
        _say("nothing was removed: --dry-run")
    return True


async def _each(
    config: Config, images: Sequence[str], act: Callable[[Keeper, str], Awaitable[None]]
) -> bool:
    """Do it for each of them, also where one fails; whether none has."""
    is_done = True
    async with keeper(config) as its:
        for image in images:
            try:
                await act(its, image)
            except (NotDone, Refused, ValueError) as error:
                _complain(str(error))
                is_done = False
    return is_done


def _described(pin: acts.Pin) -> str:
    platforms = f" ({', '.join(pin.platforms)})" if pin.platforms else ""
    trouble = f": {pin.trouble}" if pin.trouble else ""
    return (
        f"{pin.image}{platforms}: {pin.state}, {pin.blobs} blobs, {size(pin.bytes)} here,"
        f" by the {pin.source}{trouble}"
    )


def _say(what: str | msgspec.Struct) -> None:
    line = printable(what) if isinstance(what, str) else json_text(msgspec.json.encode(what))
    sys.stdout.write(line + "\n")


def _complain(what: str) -> None:
    sys.stderr.write(f"mirror: {printable(what)}\n")
