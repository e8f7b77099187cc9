"""What operators have of a mirror: its port, and webhooks; built of the parts that serve."""

import asyncio
import resource
import socket
import uuid
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web

from mirror.building import Built, Parts
from mirror.company import Company
from mirror.contents.compare import Comparing
from mirror.contents.contents import Contents
from mirror.control import models
from mirror.control.admin import make_admin
from mirror.control.api.contents import contents_operations
from mirror.control.api.keeping import keeping_operations
from mirror.control.api.leaving import Forecast
from mirror.control.api.operations import operations
from mirror.control.api.past import history_operations
from mirror.control.api.pausing import pausing_operations
from mirror.control.api.using import Using
from mirror.control.api.warming import warming_operations
from mirror.control.first_byte import FirstBytes
from mirror.control.guard import Guard, is_loopback, make_key
from mirror.control.guides import MakeGuides
from mirror.control.noticing import Noticing, Seen
from mirror.control.overview import Overview, Parts as Watched
from mirror.control.page.contents import ContentsViews
from mirror.control.page.past import PastViews
from mirror.control.page.views import Views
from mirror.control.past import Past
from mirror.control.port import serving
from mirror.control.spells import Spells
from mirror.control.verify import verify
from mirror.control.webhooks import Webhook, Webhooks
from mirror.front.api.passwords import PasswordFile
from mirror.front.workers.pool import Pool
from mirror.front.workers.reload import Reloading
from mirror.history.keeper import Keeper
from mirror.push.course import Course
from mirror.storage.store import LocalStorage

_MOST_DESCRIPTORS = 0.9  # of those that the system allows, with which the mirror says it is ready


async def _find_problem(pool: Pool, store: LocalStorage) -> str | None:
    """Why clients cannot be served now, if that is so."""
    if (problem := pool.find_problem()) is not None:
        return problem
    if await asyncio.to_thread(_descriptors_run_out):
        return "nearly all file descriptors are in use: raise the limit (LimitNOFILE, ulimit -n)"
    return None if await store.is_writable() else "store.root cannot be written to"


def _descriptors_run_out() -> bool:
    """Whether hardly any is left for the next download."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) > limit * _MOST_DESCRIPTORS


def _overview(
    parts: Parts, built: Built, pool: Pool, reloading: Reloading, company: Company
) -> Overview:
    metrics, store = parts.metrics, parts.store
    metrics.watch_waiting(lambda: built.fills.waiting)
    metrics.watch_disk(
        read_free=lambda: store.free,
        read_min_free=lambda: reloading.config.store.min_free,
    )
    overview = Overview(
        Watched(
            lambda: reloading.config, built.fills, lambda: built.upstreams.configured,
            lambda: store.totals, lambda: store.taken, store.find_free, store.find_trouble,
            metrics.traffic, pool.gather, lambda: pool.connections.count,
            built.warmers.schedules, company.troubles,
            lambda: reloading.lives,
            lambda: [_push(it, parts.private) for it in built.uploads.courses.on_their_way()],
            parts.private, parts.clock, parts.monotonic,
            FirstBytes(metrics.upstream_seconds),
        )
    )  # fmt: skip
    parts.work.keep(overview.watch, name="overview")
    return overview


def _push(course: Course, private: Collection[str]) -> models.Push:
    return models.Push(
        upstream=course.repository.namespace, repository=course.repository.name,
        state=course.state.value, received=course.size, sent=course.sent,
        clients=len(course.followers), is_private=course.repository.namespace in private,
    )  # fmt: skip


@asynccontextmanager
async def serving_operators(
    listeners: Iterable[socket.socket],
    parts: Parts,
    built: Built,
    pool: Pool,
    keeper: Keeper,
    *,
    reloading: Reloading,
    company: Company,
    passwords: PasswordFile | None,
    guides: MakeGuides,
) -> AsyncIterator[None]:
    """Answer operators inside the block. `passwords` are theirs, where they have any.

    Raises:
        StoreError, OSError: The store cannot be used.
    """
    private, aliases = parts.private, built.upstreams.aliases
    opening = Contents.open(parts.store, parts.records, private, aliases, clock=parts.clock)
    async with opening as contents:
        admin = _build_admin(
            parts, built, pool, keeper, reloading,
            company=company,
            contents=contents,
            key=await asyncio.to_thread(make_key, parts.config.store.root),
            passwords=passwords,
            guides=guides,
        )  # fmt: skip
        async with serving(admin, listeners, parts.metrics.faults.note):
            yield


def _build_admin(
    parts: Parts,
    built: Built,
    pool: Pool,
    keeper: Keeper,
    reloading: Reloading,
    *,
    company: Company,
    contents: Contents,
    key: str,
    passwords: PasswordFile | None,
    guides: MakeGuides,
) -> web.Application:
    """What operators ask, and what is kept for them. `key`: only who may read the store has it."""
    overview = _overview(parts, built, pool, reloading, company)
    config, metrics, store = parts.config, parts.metrics, parts.store
    telling = partial(reloading.manager.keep_telling, overview.summary)
    parts.work.keep(telling, name="watch")
    past = Past(
        keeper, private=parts.private, gather=pool.gather, clock=parts.clock,
        monotonic=parts.monotonic,
    )  # fmt: skip
    parts.work.keep(keeper.run, name="history")
    parts.work.keep(Spells(keeper, overview.endpoints, parts.clock).run, name="spells")
    _notify(parts, overview, reloading)
    using = Using(contents, past, parts.clock)
    forecast = Forecast(contents.list_leaving, overview, past, parts.clock)
    address, _ = config.server.admin_listen
    return make_admin(
        metrics,
        overview,
        Views(
            status=overview.status,
            pins=built.keeping.list_pins,
            line=overview.line,
            contents=ContentsViews(contents, using, forecast.tell, parts.monotonic),
            guides=lambda address: guides(reloading.config, address),
            level=lambda: reloading.config.log.level,
            clock=parts.clock,
            past=PastViews(past, clock=parts.clock, monotonic=parts.monotonic),
        ),
        (
            *operations(overview, reload=reloading.ask, set_log_level=reloading.set_log_level),
            *history_operations(past),
            *keeping_operations(built.keeping),
            *warming_operations(built.warmers),
            *pausing_operations(built.pausing),
            *contents_operations(
                contents,
                Comparing(
                    built.upstreams.registries,
                    built.upstreams.served,
                    contents.manifests,
                    contents.personal,
                ),
                {
                    "list_leaving": forecast.tell,
                    "list_repositories": using.list_repositories,
                    "list_images": using.list_images,
                },
            ),
        ),
        Guard(
            names={*config.server.admin_hosts, address},
            token_file=config.admin.token_file,
            admits=None if passwords is None else passwords.admits,
            is_reachable=not is_loopback(address),
            has_private=lambda: bool(parts.private),
            key=key,
        ),
        past=past,
        verify=partial(verify, store, parts.records, aliases=built.upstreams.aliases),
        depot=built.depot,
        gather=pool.gather,
        find_problem=partial(_find_problem, pool, store),
    )


def _notify(parts: Parts, overview: Overview, reloading: Reloading) -> None:
    """Tell webhooks of what happens, from now on."""

    async def look() -> Seen:
        return await overview.seen(parts.metrics.mismatches.take())

    Webhooks(
        lambda: reloading.config.notify,
        lambda one: Webhook(one, parts.sessions, parts.metrics),
        Noticing(mirror=socket.gethostname(), new_id=lambda: str(uuid.uuid4())),
        look,
    ).start(parts.work)
