"""The table of all that the API can be asked, and what answers it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from mirror.control import models
from mirror.control.hidden import nameless, without_names, without_private
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
    to_others: Act | None = None  # instead of `act`, for who may not be told what is private


def operations(
    overview: Overview,
    *,
    reload: Callable[[], None],
    set_log_level: Callable[[str], Awaitable[None]],
) -> tuple[Operation, ...]:
    """All that is about the mirror as it runs."""
    telling = _Telling(overview)

    async def ask_reload(_: None) -> models.Done:
        reload()
        return models.Done(
            message="settings, certificates and passwords are being read anew; see the log"
        )

    async def put_log_level(wanted: models.LogLevel) -> models.LogLevel:
        await set_log_level(wanted.level)
        return wanted

    return (
        Operation(
            "getStatus", "GET", "/status", "Everything at once.",
            models.Status, telling.status, to_others=telling.status_for_others,
        ),
        Operation(
            "listEndpoints", "GET", "/endpoints", "Every endpoint of every upstream.",
            models.Endpoints, telling.endpoints,
        ),
        Operation(
            "listFills", "GET", "/fills", "Downloads under way.",
            models.Fills, telling.fills, to_others=telling.fills_for_others,
        ),
        Operation(
            "getStore", "GET", "/store", "The store and its limits.", models.Store, telling.store
        ),
        Operation(
            "getConfiguration", "GET", "/configuration", "What is in effect, without secrets.",
            models.Configuration, telling.configuration,
            to_others=telling.configuration_for_others,
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


@dataclass(frozen=True, slots=True)
class _Telling:
    """Answers what needs nothing but the overview."""

    overview: Overview

    async def status(self, _: None) -> models.Status:
        return await self.overview.status()

    async def status_for_others(self, _: None) -> models.Status:
        return without_private(await self.overview.status())

    async def endpoints(self, _: None) -> models.Endpoints:
        return models.Endpoints(endpoints=self.overview.endpoints())

    async def fills(self, _: None) -> models.Fills:
        return models.Fills(fills=self.overview.fills())

    async def fills_for_others(self, _: None) -> models.Fills:
        return models.Fills(fills=nameless(self.overview.fills()))

    async def store(self, _: None) -> models.Store:
        return await self.overview.store()

    async def configuration(self, _: None) -> models.Configuration:
        return self.overview.configuration()

    async def configuration_for_others(self, _: None) -> models.Configuration:
        return without_names(self.overview.configuration())
