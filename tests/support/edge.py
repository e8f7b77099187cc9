"""The upstream edge alone: a registry of one endpoint, with a clock of the test's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from mirror.config import Endpoint as EndpointConfig, EnvironmentProxies
from mirror.sources.registry.endpoint import Endpoint
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.registry import Registry
from mirror.sources.registry.sessions import open_sessions
from mirror.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.tasks import owned_tasks


@asynccontextmanager
async def registry_at(
    url: str,
    clock: FakeClock,
    *,
    stall_timeout: float = 5,
    proxies: EnvironmentProxies | None = None,
    **settings: Any,
) -> AsyncIterator[Registry]:
    """An upstream called "hub" whose endpoint is at `url`; `settings` are the endpoint's."""
    config, label, metrics = EndpointConfig(url=url, **settings), Label("hub", "a"), Metrics()
    async with open_sessions(proxies=proxies) as sessions, owned_tasks() as tasks:
        exchange = Exchange(
            config,
            label,
            sessions=sessions,
            connect_timeout=2,
            stall_timeout=stall_timeout,
            metrics=metrics,
        )
        endpoint = Endpoint(
            config,
            label,
            exchange,
            tasks=tasks,
            metrics=metrics,
            clock=clock,
            random=Random(0),  # noqa: S311 - for jitter
        )
        yield Registry("hub", [endpoint])
