"""The upstream edge alone: a registry of one endpoint, and nothing around it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from mirror.config import Endpoint as EndpointConfig, EnvironmentProxies
from mirror.sources.registry.endpoint import Endpoint
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.registry import Registry
from mirror.sources.registry.sessions import open_sessions
from mirror.telemetry.metrics import Metrics
from tests.support.tasks import owned_tasks


@asynccontextmanager
async def registry_at(
    url: str,
    clock: Callable[[], float] = time.monotonic,
    *,
    connect_timeout: float = 5,
    stall_timeout: float = 10,
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
            connect_timeout=connect_timeout,
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
