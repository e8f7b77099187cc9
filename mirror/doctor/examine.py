"""All that `mirror doctor` looks at, in the order in which a person would."""

import asyncio
import datetime as dt
import random
import time
from collections.abc import AsyncIterator

from mirror.aio.tasks import owned_tasks
from mirror.config import DOCKER_HUB, Config, EnvironmentProxies
from mirror.doctor.endpoints import Examination
from mirror.doctor.files import look_at_files
from mirror.doctor.finding import Finding
from mirror.doctor.settings import look_at_settings
from mirror.doctor.shared import examine_shared, look_at_shared
from mirror.oci.image import Image
from mirror.oci.reference import Repository, Tag
from mirror.sources.registry.endpoint import Endpoint
from mirror.sources.registry.exchange import Exchange, Label
from mirror.sources.registry.sessions import open_sessions
from mirror.telemetry.metrics import Metrics

_USUAL: dict[str, list[Image]] = {
    DOCKER_HUB: [(Repository(DOCKER_HUB, "library/busybox"), Tag("latest"))]
}
"""What everybody may pull, where no image is named; it counts as one pull."""


def look(config: Config) -> list[Finding]:
    """What there is to say without asking anybody: of the settings, and the files they name."""
    return [
        *look_at_settings(config),
        *look_at_files(config, now=dt.datetime.now(dt.UTC)),
        *look_at_shared(config.shared),
    ]


async def look_online(config: Config, proxies: EnvironmentProxies) -> list[Finding]:
    """What the database and the bucket answer that `[shared]` names."""
    return [finding async for finding in examine_shared(config.shared, proxies)]


async def examine(
    config: Config, images: list[Image], proxies: EnvironmentProxies | None = None
) -> AsyncIterator[Finding]:
    """What there is to say of a configuration, its files, its store and its endpoints."""
    for finding in await asyncio.to_thread(look, config):
        yield finding
    async for finding in examine_shared(config.shared, proxies or EnvironmentProxies()):
        yield finding
    for repository, reference in images:
        if repository.namespace not in config.upstream:
            text = f"{repository}:{reference} is of no upstream that is configured"
            yield Finding("error", "--image", text)
    wanted = {name: [it for it in images if it[0].namespace == name] for name in config.upstream}
    async with (
        open_sessions(proxies=proxies) as sessions,
        owned_tasks(lambda _task, _error: None) as tasks,
    ):
        metrics = Metrics()
        for name, upstream in config.upstream.items():
            for number, settings in enumerate(upstream.asked):
                label = Label(name, settings.name)
                exchange = Exchange(
                    settings,
                    label,
                    sessions=sessions,
                    connect_timeout=config.fill.connect_timeout,
                    stall_timeout=config.fill.stall_timeout,
                    metrics=metrics,
                )
                endpoint = Endpoint(
                    settings, label, exchange, tasks=tasks, metrics=metrics,
                    clock=time.monotonic, random=random.Random(),  # noqa: S311 - for jitter
                )  # fmt: skip
                where = f'upstream."{name}".endpoints[{number}]'
                async for finding in Examination(
                    where,
                    settings,
                    endpoint,
                    wanted[name] or _USUAL.get(name, []),
                    proxy=sessions.proxies.find_for(settings.url, own=settings.proxy),
                ).steps():
                    yield finding
