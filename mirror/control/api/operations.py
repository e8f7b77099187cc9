"""The table of all that the API can be asked, and what answers it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from mirror.control import models
from mirror.control.overview import Overview

ROOT = "/api/v1"

Act = Callable[[Any], Awaitable[msgspec.Struct]]
"""Given what was sent or asked for (None where nothing is), does it, and gives the answer."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing to ask: OpenAPI's `operationId` is its `name`."""

    name: str
    method: str
    path: str  # below ROOT
    summary: str
    answer: type[msgspec.Struct]
    act: Act
    takes: type[msgspec.Struct] | None = None  # as a body
    query: type[msgspec.Struct] | None = None  # as parameters
    may_refuse: tuple[HTTPStatus, ...] = ()  # beside what anything may be refused with
    tells_contents: bool = False  # which may be private (`Guard.require_reader`)


def operations(
    overview: Overview,
    *,
    reload: Callable[[], None],
    set_log_level: Callable[[str], Awaitable[None]],
) -> tuple[Operation, ...]:
    """Everything there is."""

    async def status(_: None) -> models.Status:
        return await overview.status()

    async def endpoints(_: None) -> models.Endpoints:
        return models.Endpoints(endpoints=overview.endpoints())

    async def fills(_: None) -> models.Fills:
        return models.Fills(fills=overview.fills())

    async def store(_: None) -> models.Store:
        return await overview.store()

    async def configuration(_: None) -> models.Configuration:
        return overview.configuration()

    async def ask_reload(_: None) -> models.Done:
        reload()
        return models.Done(
            message="settings, certificates and passwords are being read anew; see the log"
        )

    async def put_log_level(wanted: models.LogLevel) -> models.LogLevel:
        await set_log_level(wanted.level)
        return wanted

    return (
        Operation("getStatus", "GET", "/status", "Everything at once.", models.Status, status),
        Operation(
            "listEndpoints", "GET", "/endpoints", "Every endpoint of every upstream.",
            models.Endpoints, endpoints,
        ),
        Operation("listFills", "GET", "/fills", "Downloads under way.", models.Fills, fills),
        Operation("getStore", "GET", "/store", "The store and its limits.", models.Store, store),
        Operation(
            "getConfiguration", "GET", "/configuration", "What is in effect, without secrets.",
            models.Configuration, configuration,
        ),
        Operation(
            "reload", "POST", "/reload", "Read settings, certificates and passwords anew.",
            models.Done, ask_reload,
        ),
        Operation(
            "setLogLevel", "PUT", "/log-level", "Log more, or less, until the next start.",
            models.LogLevel, put_log_level, models.LogLevel,
        ),
    )  # fmt: skip
