"""Builds everything from a configuration, runs it, and takes it down in order.

    store  <-  upstream  <-  work (fills, flights)  <-  servers

Down goes the other way: stop accepting, let responses finish, stop the work (partial blobs stay for
the next start), close the store.
"""

import asyncio
import importlib
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop

from mirror import __version__
from mirror.aio.garbage import spare_what_is_there
from mirror.aio.tasks import NoteFault, Tasks, owned_tasks
from mirror.building import Built, Clock, Parts, build
from mirror.company import ByItself, Company
from mirror.config import (
    Config,
    ConfigError,
    EnvironmentProxies,
    inherited_sockets,
    is_journal,
    notify_socket,
)
from mirror.config.units import format_listen, format_size
from mirror.control.guides import MakeGuides
from mirror.descriptors import allow_descriptors, warn_of_descriptors
from mirror.front.api.passwords import PasswordFile
from mirror.front.settings import UnusableFile
from mirror.front.workers.forked import Forked, forked_workers
from mirror.front.workers.pool import Pool
from mirror.front.workers.reload import Reloading
from mirror.front.workers.sockets import listening
from mirror.front.workers.spawn import Spawn, spawn_here, spawn_process
from mirror.history.keeper import Keeper
from mirror.opening import open_history, open_records, warn_of_disk
from mirror.pull.fill.others import Others
from mirror.pull.forget import Forgetting
from mirror.pull.referenced import ReferencedBytes
from mirror.records.bounded import BoundedRecords
from mirror.sources.registry.arrival import Line
from mirror.sources.registry.sessions import open_sessions
from mirror.storage.building import open_storage
from mirror.storage.scrub import ScrubPace
from mirror.storage.space import Limits
from mirror.storage.store import LocalStorage
from mirror.telemetry import log
from mirror.telemetry.asked import Entry
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.push_metrics import PushCounts
from mirror.telemetry.service import ServiceManager, call_this_process
from mirror.telemetry.shared import BlobFigures

_logger = logging.getLogger(__name__)

_REFERENCED_FOR = 300.0  # seconds, before what is referenced is counted again
_wall_clock = time.time  # noqa: TID251 - here is where the clock comes from that others take
_OTHERS = 0o077  # have no business in the store, in which there may be private images


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running mirror listens: (address, port) for clients, and for operators."""

    listen: Sequence[tuple[str, int]]
    admin: Sequence[tuple[str, int]]
    reload: Callable[[], None]
    """Have settings, certificates and passwords read anew, soon."""


def serve(
    config: Config,
    proxies: EnvironmentProxies,
    reread: Callable[[], Config],
    welcome: Callable[[Config], str],
    guides: MakeGuides,
) -> None:
    """Run the mirror until SIGTERM or SIGINT; then drain. For a process that does nothing else.

    `proxies`: what the environment says of the way to upstream. `reread` gives the configuration
    as it is written now, on SIGHUP; it raises ConfigError. `welcome` makes what browsers are shown,
    `guides` what operators are shown of clients.

    Raises:
        StoreError: The store cannot be used.
        ConfigError: A file that the configuration names makes no sense.
        OSError: An address cannot be listened on, or too few files may be open at once.
    """
    allow_descriptors(config)
    os.umask(_OTHERS)
    with forked_workers(config.server.worker_count, config.log) as waiting:
        uvloop.run(_serve(config, proxies, reread, welcome, guides, waiting=waiting))


async def _serve(
    config: Config,
    proxies: EnvironmentProxies,
    reread: Callable[[], Config],
    welcome: Callable[[Config], str],
    guides: MakeGuides,
    *,
    waiting: list[Forked],
) -> None:
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in one
    writer = log.start(
        config.log.level, config.log.format, to_journal=is_journal(sys.stderr.fileno())
    )
    manager = ServiceManager(*notify_socket())
    call_this_process("mirror: serve")
    _on_signals(task.cancel)  # until there is something to drain
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # it has just read everything
    try:
        async with run(
            config, spawn=spawn_process(config.log, waiting), inherited=inherited_sockets(),
            proxies=proxies, reread=reread, manager=manager, welcome=welcome, guides=guides,
        ) as running:  # fmt: skip
            spare_what_is_there()
            _on_signals(stop.set)
            loop.add_signal_handler(signal.SIGHUP, running.reload)
            _logger.info("serving", extra=_in_short(config, running))
            warn_of_disk(config.store)
            warn_of_descriptors(config)
            manager.tell(READY="1")
            await stop.wait()
            _on_signals(None)  # a second ends it at once
            manager.tell(STOPPING="1", STATUS="stopping: responses may finish")
            _logger.info(
                "stopping: responses may finish",
                extra=log.fields(within_seconds=config.server.drain_timeout),
            )
        _logger.info("stopped")
    except asyncio.CancelledError:
        _logger.info("stopped at once" if stop.is_set() else "stopped before it served")
    finally:
        writer.stop()


def _on_signals(act: Callable[[], object] | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if act is None:
            loop.remove_signal_handler(number)
        else:
            loop.add_signal_handler(number, act)


@asynccontextmanager
async def run(
    config: Config,
    *,
    clock: Clock = _wall_clock,
    monotonic: Clock = time.monotonic,
    spawn: Spawn | None = None,
    proxies: EnvironmentProxies | None = None,
    inherited: Sequence[int] = (),
    reread: Callable[[], Config] | None = None,
    manager: ServiceManager = ServiceManager("", 0),  # noqa: B008 - nobody
    welcome: Callable[[Config], str] = lambda _: "",
    guides: MakeGuides = lambda *_: [],
) -> AsyncIterator[Running]:
    """Run the mirror inside the block. `clock` gives seconds since the epoch.

    `monotonic` is never set back: what is remembered in this process for a while counts by it.

    `inherited` are the descriptors of sockets to listen on, instead of `server.listen`.

    Its workers live in this process, unless `spawn` has them live elsewhere.

    Raises:
        As `serve`.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        note_fault = metrics.faults.note
        forgetting = Forgetting()
        store = await stack.enter_async_context(
            open_storage(
                config.store.root,
                Limits(config.store.max_size, config.store.min_free),
                keep_partial_for=config.fill.keep_partial_for,
                clock=clock,
                metrics=metrics,
                note_fault=note_fault,
                dropped=forgetting.forget,
                scrub=ScrubPace(config.store.scrub_interval, config.store.scrub_rate),
                max_quarantine=config.store.max_quarantine,
            )
        )
        metrics.watch_store(
            lambda: store.totals,
            read_disk=lambda: store.taken,
            read_limit=lambda: reloading.config.store.max_size,
        )
        dice = random.Random()  # noqa: S311 - for jitter
        company = await stack.enter_async_context(
            _company(
                config, note_fault=note_fault, clock=clock, monotonic=monotonic, dice=dice,
                proxies=proxies,
            )
        )  # fmt: skip
        records = BoundedRecords(
            company.records,
            per_hour=config.store.new_repositories_per_hour, clock=monotonic,
            metrics=metrics,
        )  # fmt: skip
        private = {name for name, its in config.upstream.items() if its.access == "client"}
        keeper = await stack.enter_async_context(open_history(config, private, clock))
        sessions = await stack.enter_async_context(open_sessions(proxies=proxies))
        work = await stack.enter_async_context(owned_tasks(note_fault))
        parts = Parts(
            config, store, records, company.fleet, company.records, company.wishes, sessions,
            work, metrics, forgetting,
            Line(least=config.fill.min_rate, window=config.fill.stall_timeout), keeper.coming,
            dice, PushCounts(metrics.registry), private,
            others=_others(
                config, company.common, store, records, tasks=work, monotonic=monotonic, dice=dice,
                private=private, metrics=metrics,
            ),
            limits=company.limits,
            clock=clock, monotonic=monotonic,
        )  # fmt: skip
        built = build(parts)
        await built.begin()
        metrics.watch_referenced(
            ReferencedBytes(
                store, records, tasks=work, clock=monotonic, good_for=_REFERENCED_FOR
            ).read
        )
        pool = Pool(
            config,
            built.mirror,
            built.mirror.open_blob,
            built.mirror.open_rest,
            pushing=built.pushing,
            spawn=spawn or spawn_here(clock, monotonic),
            traffic=metrics.traffic,
            faults=metrics.faults,
            used=store.note_access,
            asked=partial(_note_asked, metrics, keeper),
            refused=metrics.connections_refused.inc,
            random=dice,
            welcome=welcome,
        )
        metrics.watch_connections(lambda: pool.connections.count)
        forgetting.subscribe(pool.forget)
        reloading = Reloading(
            config, reread, take=partial(_take, store, built), renew=pool.reload,
            metrics=metrics, manager=manager,
        )  # fmt: skip
        operators, expected, passwords = await stack.enter_async_context(_expecting(config))
        listeners = await stack.enter_async_context(_serving(pool, config, inherited))
        await _load_what_operators_have()
        from mirror.operators import serving_operators  # noqa: PLC0415 - see above

        await operators.enter_async_context(
            serving_operators(
                expected, parts, built, pool, keeper,
                reloading=reloading, company=company, passwords=passwords, guides=guides,
            )
        )  # fmt: skip
        work.keep(reloading.run, name="reload")
        await _start(built, company, parts)
        yield Running(_where(listeners), _where(expected), reloading.ask)


def _note_asked(metrics: Metrics, keeper: Keeper, entries: Sequence[Entry]) -> None:
    """What workers tell of requests: for the metrics, and for the history."""
    metrics.note_asked(entries)
    keeper.note(entries)


@asynccontextmanager
async def _serving(
    pool: Pool, config: Config, inherited: Sequence[int]
) -> AsyncIterator[list[socket.socket]]:
    """Serve clients inside the block, at these. Raises as `run`."""
    async with (
        pool.working(),
        listening(config.server.listen, inherited) as listeners,
        pool.accepting(listeners),
    ):
        yield listeners


def _where(listeners: Iterable[socket.socket]) -> list[tuple[str, int]]:
    return [one.getsockname()[:2] for one in listeners]


async def _passwords(config: Config) -> PasswordFile | None:
    """Of operators. Raises ConfigError."""
    file = config.admin.htpasswd_file
    try:
        return None if file is None else await asyncio.to_thread(PasswordFile, file)
    except UnusableFile as error:
        raise ConfigError(error.file, error.problems) from error


@asynccontextmanager
async def _expecting(
    config: Config,
) -> AsyncIterator[tuple[AsyncExitStack, list[socket.socket], PasswordFile | None]]:
    """Operators may connect inside the block, and wait until they are answered; their passwords.

    What answers them is for the stack: it ends after all that is begun inside the block.

    Raises:
        ConfigError, OSError: As `run`.
    """
    passwords = await _passwords(config)
    address = config.server.admin_listen
    async with listening([address], setting="admin_listen") as listeners, AsyncExitStack() as stack:
        yield stack, listeners, passwords


async def _load_what_operators_have() -> None:
    """A sixth of all that is to be loaded: no pull waits for it, nor for the thread that does."""
    await asyncio.to_thread(importlib.import_module, "mirror.operators")


@asynccontextmanager
async def _company(
    config: Config,
    *,
    note_fault: NoteFault,
    clock: Clock,
    monotonic: Clock,
    dice: random.Random,
    proxies: EnvironmentProxies | None,
) -> AsyncIterator[Company]:
    """What this mirror has of others; nothing of that is loaded where it is by itself."""
    async with AsyncExitStack() as stack:
        if config.shared is None:
            yield ByItself(await stack.enter_async_context(open_records(config, clock)))
            return
        from mirror.joining import join  # noqa: PLC0415 - only where it is asked for
        from mirror.shared.opening import open_common  # noqa: PLC0415 - as above

        # Before the records: what is not for this mirror is refused before anything is written.
        common = await stack.enter_async_context(
            open_common(
                config.shared,
                config.store.root,
                note_fault=note_fault,
                monotonic=monotonic,
                dice=dice,
                proxies=proxies,
            )
        )
        own = await stack.enter_async_context(open_records(config, clock))
        yield await stack.enter_async_context(
            join(common, own, config, clock=clock, monotonic=monotonic)
        )


def _others(
    config: Config,
    common: Any,
    store: LocalStorage,
    records: BoundedRecords,
    *,
    private: Collection[str],
    tasks: Tasks,
    monotonic: Clock,
    dice: random.Random,
    metrics: Metrics,
) -> Others | None:
    """The mirrors that are one with this one."""
    if config.shared is None:
        return None
    from mirror.shared.sharing import Sharing  # noqa: PLC0415 - as above

    sharing = Sharing(
        common, store,
        lease=config.shared.lease,
        patience=config.fill.stall_timeout + config.shared.lease,
        list_senders=records.list_senders,
        read_private=lambda: private,
        read_pinned=lambda: set().union(*map(store.pins.of, store.pins.list_images())),
        max_size=config.shared.max_size,
        redirects=config.shared.redirect == "large",
        tasks=tasks, monotonic=monotonic, random=dice,
    )  # fmt: skip
    metrics.registry.register(BlobFigures(sharing.read_figures))
    return sharing


async def _start(built: Built, company: Company, parts: Parts) -> None:
    """Have what goes on by itself begin, here and with others. Raises StoreError."""
    await built.start(parts.work)
    await company.start(
        parts.work, forget=parts.forgetting.forget, pinning=built.pinning,
        registries=built.upstreams.registries, metrics=parts.metrics,
    )  # fmt: skip


def _take(store: LocalStorage, built: Built, config: Config) -> None:
    """Go by another configuration from now on. Raises OSError."""
    built.change(config)
    store.change(Limits(config.store.max_size, config.store.min_free))
    log.set_level(config.log.level)


def _in_short(config: Config, running: Running) -> dict[str, object]:
    """What a reader of the log asks first."""
    store = config.store
    return log.fields(
        version=__version__,
        listen=",".join(map(format_listen, running.listen)),
        admin=",".join(map(format_listen, running.admin)),
        root=store.root, max_size=format_size(store.max_size),
        min_free=format_size(store.min_free), workers=config.server.worker_count,
        upstreams=",".join(config.upstream),
    )  # fmt: skip
