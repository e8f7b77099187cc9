"""Registries as the mirror knows them, to push to in tests: one endpoint, and nothing around it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from mirror.config import Endpoint as EndpointConfig
from mirror.sources.registry.endpoint import Endpoint
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.registry import Registry
from mirror.sources.registry.sessions import open_sessions
from mirror.telemetry.metrics import Metrics
from tests.support.tasks import owned_tasks


@asynccontextmanager
async def endpoint_at(
    url: str, *, stall_timeout: float = 10, connect_timeout: float = 10, **settings: Any
) -> AsyncIterator[Registry]:
    """An upstream "hub" that has this one endpoint."""
    config, label, metrics = EndpointConfig(url=url, **settings), Label("hub", "a"), Metrics()
    async with open_sessions() as sessions, owned_tasks() as tasks:
        exchange = Exchange(
            config, label, sessions=sessions, connect_timeout=connect_timeout,
            stall_timeout=stall_timeout, metrics=metrics,
        )  # fmt: skip
        endpoint = Endpoint(
            config, label, exchange, tasks=tasks, metrics=metrics, clock=time.monotonic,
            random=Random(0),  # noqa: S311 - for jitter
        )  # fmt: skip
        yield Registry("hub", [endpoint])
