"""Builds everything from a configuration, runs it, and takes it down in order.

    store  <-  upstream  <-  work (fills, flights)  <-  servers

Down goes the other way: stop accepting, let responses finish, stop the work (partial blobs stay for
the next start), close the store.
"""

import asyncio
import logging
import random
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientSession, web

from mirror.api.access import Access
from mirror.api.admin import make_admin
from mirror.api.frontend import Frontend
from mirror.api.handlers import Handlers
from mirror.config import Config, ConfigError, Endpoint as EndpointConfig, Server
from mirror.pull.blobs import Blobs
from mirror.pull.fills import Fills
from mirror.pull.freshness import Policy
from mirror.pull.grants import Grants
from mirror.pull.links import Links
from mirror.pull.listings import Listings
from mirror.pull.manifests import Manifests
from mirror.pull.memory import Memory
from mirror.pull.mirror import Mirror
from mirror.pull.prefetch import Prefetch
from mirror.store.space import Limits
from mirror.store.store import Store
from mirror.telemetry import log
from mirror.telemetry.metrics import Metrics
from mirror.upstream.endpoint import Endpoint
from mirror.upstream.exchange import Exchange, Label, open_session
from mirror.upstream.flights import Flights
from mirror.upstream.registry import Registry
from mirror.upstream.routing import Router

_logger = logging.getLogger(__name__)

_wall_clock = time.time  # noqa: TID251 - here is where the clock comes from that others take
_PATIENCE = 0.5  # of connect_timeout, where a stale answer is at hand; upstream may use it all
_BACKLOG = 1024  # connections that wait to be accepted, when a cluster starts all at once

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running mirror listens: (address, port) for clients, and for operators."""

    listen: tuple[str, int]
    admin: tuple[str, int]


async def serve(config: Config) -> None:
    """Run the mirror until SIGTERM or SIGINT; then drain.

    Raises:
        StoreError: The store cannot be used.
        ConfigError: A file that the configuration names makes no sense.
        OSError: An address cannot be listened on.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    listener = log.start(config.log.level, config.log.format)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with run(config) as running:
            _logger.info("serving", extra=_addresses(running))
            await stop.wait()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)  # a second ends it at once
            _logger.info(
                "stopping: responses may finish",
                extra=log.fields(within_seconds=config.server.drain_timeout),
            )
        _logger.info("stopped")
    finally:
        listener.stop()


@asynccontextmanager
async def run(config: Config, *, clock: Clock = _wall_clock) -> AsyncIterator[Running]:
    """Run the mirror inside the block. `clock` gives seconds since the epoch.

    Raises:
        As `serve`.
    """
    metrics = Metrics()
    access = Access(config.server)
    async with AsyncExitStack() as stack:
        upkeep = await stack.enter_async_context(owned_tasks())
        store = await stack.enter_async_context(
            Store.open(
                config.store.root,
                Limits(config.store.max_size, config.store.min_free),
                keep_partial_for=config.fill.keep_partial_for,
                clock=clock,
                metrics=metrics,
                tasks=upkeep,
            )
        )
        session = await stack.enter_async_context(open_session())
        work = await stack.enter_async_context(owned_tasks())
        dice = random.Random()  # noqa: S311 - for jitter
        mirror = _build(_Parts(config, store, session, work, metrics, clock, dice))
        frontend = Frontend(Handlers(mirror), access, metrics)
        admin = await stack.enter_async_context(
            _listening(
                web.AppRunner(make_admin(metrics, store.is_writable), access_log=None),
                config.server.admin_listen,
            )
        )
        listen = await stack.enter_async_context(
            _listening(
                web.ServerRunner(
                    web.Server(frontend, handler_cancellation=True, access_log=None),
                    shutdown_timeout=config.server.drain_timeout,
                ),
                config.server.listen,
                _tls(config.server),
            )
        )
        yield Running(listen, admin)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What everything is built from."""

    config: Config
    store: Store
    session: ClientSession
    work: asyncio.TaskGroup
    metrics: Metrics
    clock: Clock
    dice: random.Random


def _build(parts: _Parts) -> Mirror:
    config, store, work, clock = parts.config, parts.store, parts.work, parts.clock
    registries = {
        name: Registry(name, [_endpoint(parts, name, endpoint) for endpoint in upstream.endpoints])
        for name, upstream in config.upstream.items()
    }
    for name, upstream in config.upstream.items():
        parts.metrics.announce(name, (endpoint.name for endpoint in upstream.endpoints))
    memory = Memory(config.store.memory_cache, missing_for=config.tags.missing_for, clock=clock)
    links = Links(store, memory, registries, Flights(work))
    policy = Policy(config.tags.fresh_for, config.tags.stale_for)
    fills = Fills(
        config.fill, registries, store, tasks=work, metrics=parts.metrics, random=parts.dice
    )
    manifests = Manifests(
        store=store, memory=memory, links=links, registries=registries, flights=Flights(work),
        policy=policy, patience=config.fill.connect_timeout * _PATIENCE, clock=clock,
    )  # fmt: skip
    prefetch = Prefetch(fills, manifests, store, tasks=work)
    return Mirror(
        router=Router(config),
        registries=registries,
        grants=Grants(clock),
        manifests=manifests,
        prefetch=None if config.fill.prefetch == "off" else prefetch,
        blobs=Blobs(store, memory, links, fills, registries),
        listings=Listings(
            store, memory, registries, Flights(work), policy,
            public={name for name, its in config.upstream.items() if its.access == "mirror"},
            clock=clock,
        ),
    )  # fmt: skip


def _endpoint(parts: _Parts, name: str, endpoint: EndpointConfig) -> Endpoint:
    settings, label = parts.config.fill, Label(name, endpoint.name)
    others = len(parts.config.upstream[name].endpoints)
    exchange = Exchange(
        endpoint,
        label,
        session=parts.session,
        # Together they take no longer than one may: a client waits for the last of them.
        connect_timeout=settings.connect_timeout / others,
        stall_timeout=settings.stall_timeout,
        metrics=parts.metrics,
    )
    return Endpoint(
        endpoint,
        label,
        exchange,
        tasks=parts.work,
        metrics=parts.metrics,
        clock=time.monotonic,
        random=parts.dice,
    )


class _Over(Exception):
    """Ends a task group (see asyncio's documentation, "Terminating a Task Group")."""


@asynccontextmanager
async def owned_tasks() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that live until the block ends, and are cancelled then."""

    async def end() -> None:
        raise _Over

    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
            tasks.create_task(end())
    except BaseExceptionGroup as group:
        _, others = group.split(_Over)
        if others is not None:
            raise others.exceptions[0] from None


@asynccontextmanager
async def _listening(
    runner: web.AppRunner | web.ServerRunner,
    address: tuple[str, int],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """Serve at `address` inside the block; yields it, with the real port in place of 0."""
    await runner.setup()
    try:
        host, port = address
        site = web.TCPSite(runner, host, port, backlog=_BACKLOG, ssl_context=tls)
        await site.start()
        yield host, int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _tls(server: Server) -> ssl.SSLContext | None:
    if server.tls_certificate_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with _readable_as("a certificate and its private key", server.tls_certificate_file):
        context.load_cert_chain(server.tls_certificate_file, server.tls_private_key_file)
    if server.client_ca_file is not None:
        with _readable_as("certificates", server.client_ca_file):
            context.load_verify_locations(server.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@contextmanager
def _readable_as(what: str, file: Path) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise ConfigError(str(file), [f"not {what} ({error.reason or error})"]) from error


def _addresses(running: Running) -> dict[str, object]:
    return log.fields(listen="{}:{}".format(*running.listen), admin="{}:{}".format(*running.admin))
