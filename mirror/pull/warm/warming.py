"""Warming jobs: lists of images that are fetched, one after the other, while operators look on.

A job is on record until it has ended: a mirror that dies in its middle begins it again when it
starts, and finds what it had already fetched. Of those that have ended the latest are known.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import msgspec
from aiolimiter import AsyncLimiter

from mirror.aio.group import Group
from mirror.aio.tasks import Tasks
from mirror.config import (
    Upstream,
    aliases_of,
    parse_platforms,
    require_platforms,
    why_not_fetchable,
)
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError, StoreError
from mirror.oci.image import Images, name_of, parse_images
from mirror.oci.reference import Reference, Repository, Tag
from mirror.oci.request import Page
from mirror.pull.not_done import NotDone
from mirror.pull.warm.fetching import Bounds, Fetching, QuotaReached
from mirror.pull.warm.progress import State, Warmed
from mirror.records.wishes import Wishes
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

MOST_IMAGES = 1000
"""Of a job: those of a cluster, or tags of a repository that are like a pattern."""

_AT_ONCE = 2  # images of a job
_MOST_RUNNING = 8  # jobs
_MOST_KNOWN = 16  # that have ended
_PAGES = 200  # of a list of tags
_BURST = 0.25  # seconds' worth of a limit that may come at once


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be fetched; on record."""

    images: list[str]
    platforms: list[str] = []
    only_here: bool = False  # only has upstream confirm what is here
    started_at: float
    ended_at: float | None = None
    failed: list[str] = []  # what of it, and why
    images_done: int = 0
    fetched: int = 0  # bytes


@dataclass(slots=True, eq=False)
class Job:
    """One of them: `name` is a schedule's, or one by chance. `ended_at` in epoch seconds."""

    name: str
    order: Order
    is_scheduled: bool = False
    images: list[Warmed] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.order.ended_at is not None


class Warming:
    """Runs jobs. `clock` in seconds since the epoch, `monotonic` is never set back."""

    def __init__(
        self,
        fetching: Fetching,
        wishes: Wishes,
        *,
        upstreams: Mapping[str, Upstream],
        registries: Mapping[str, Registry],
        tasks: Tasks,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._fetching = fetching
        self._wishes = wishes
        self._upstreams = upstreams
        self._registries = registries
        self._tasks = tasks
        self._clock = clock
        self._monotonic = monotonic
        self._jobs: dict[str, Job] = {}

    @property
    def jobs(self) -> list[Job]:
        """Those that run, and the latest that have ended; by when they began."""
        return sorted(self._jobs.values(), key=lambda job: job.order.started_at)

    def written(self, warmed: Warmed, digest: Digest) -> int:
        """Bytes that are there of a blob under way."""
        return self._fetching.written(warmed, digest)

    async def resume(self, scheduled: Mapping[str, Bounds]) -> None:
        """Go on with what an earlier process has not ended. Raises StoreError.

        `scheduled` jobs have bounds of their own; those that nobody schedules any more are
        forgotten.
        """
        for name, document in (await self._wishes.list_warmings()).items():
            is_scheduled = ":" in name
            try:
                order = msgspec.json.decode(document, type=Order)
            except msgspec.MsgspecError:
                order = None
            if order is None or (is_scheduled and name not in scheduled):
                await self._wishes.forget_warming(name)
                continue
            job = self._jobs[name] = Job(name, order, is_scheduled)
            if order.ended_at is None:
                self._run(job, scheduled.get(name, Bounds()))
            else:
                job.over.set()

    async def start(self, images: Sequence[str], platforms: Sequence[str]) -> Job:
        """Have images fetched, of these platforms or (none) of all.

        Raises:
            ValueError: One of them, or a platform, makes no sense, or cannot be fetched here.
            NotDone: There are many jobs already.
            StoreError: It cannot be put on record.
        """
        if not images or len(images) > MOST_IMAGES:
            raise ValueError(f"1 to {MOST_IMAGES} images are fetched at a time")
        require_platforms(platforms)
        names = list(dict.fromkeys(str(self._parse(image)) for image in images))
        return await self._start(secrets.token_hex(4), names, platforms, Bounds())

    async def run_scheduled(
        self, name: str, images: Images, platforms: Sequence[str], bounds: Bounds
    ) -> None:
        """Run a schedule's job, unless it still runs. Raises NotDone, StoreError."""
        before = self._jobs.get(name)
        if before is None or before.is_over:
            job = await self._start(name, [str(images)], platforms, bounds, is_scheduled=True)
            await job.over.wait()

    async def _start(
        self,
        name: str,
        images: list[str],
        platforms: Sequence[str],
        bounds: Bounds,
        *,
        is_scheduled: bool = False,
    ) -> Job:
        if sum(not job.is_over for job in self._jobs.values()) >= _MOST_RUNNING:
            raise NotDone(f"{_MOST_RUNNING} lists of images are being fetched: wait for one")
        order = Order(images=images, platforms=list(platforms), started_at=self._clock())
        job = self._jobs[name] = Job(name, order, is_scheduled)
        await self._wishes.record_warming(name, msgspec.json.encode(order))
        self._run(job, bounds)
        return job

    def _parse(self, image: str) -> Images:
        """What an image's name means here, where an upstream may have other names, too."""
        images = parse_images(image, aliases_of(self._upstreams))
        why = why_not_fetchable(images.repository, self._upstreams)
        if why is not None:
            raise ValueError(f"{image}: {why}")
        return images

    def _run(self, job: Job, bounds: Bounds) -> None:
        with suppress(RuntimeError):  # too late: the mirror is being taken down
            _ = self._tasks.create_task(self._run_job(job, bounds), name="warm")

    async def _run_job(self, job: Job, bounds: Bounds) -> None:
        try:
            await self._fetch_all(job, bounds)
        except Exception:
            for warmed in job.images:
                if not warmed.state.is_over:
                    warmed.state = State.FAILED
                    warmed.trouble = "a fault of the mirror's own; see its log"
            raise
        finally:  # unless the mirror is taken down: then it goes on at the next start
            if all(warmed.state.is_over for warmed in job.images):
                await self._end(job)

    async def _fetch_all(self, job: Job, bounds: Bounds) -> None:
        wanted: list[tuple[Warmed, Repository, Reference]] = []
        for image in job.order.images:
            wanted += await self._expand(job, image)
        spent = set[str]()  # upstreams of which no more pulls may be made

        async def work() -> None:
            for warmed, repository, reference in waiting:
                if repository.namespace in spent:
                    warmed.state = State.FAILED
                    warmed.trouble = "the pulls that are left are for people"
                elif not await self._fetch(job, warmed, repository, reference, bounds):
                    spent.add(repository.namespace)

        waiting, workers = iter(wanted), Group()
        for _ in range(_AT_ONCE):
            workers.create_task(work(), name="warm")
        await workers.wait()

    async def _fetch(
        self, job: Job, warmed: Warmed, repository: Repository, reference: Reference, bounds: Bounds
    ) -> bool:
        """Fetch one image; whether there may be more pulls."""
        began, may_go_on = self._monotonic(), True
        why = why_not_fetchable(repository, self._upstreams)  # any more
        if why is not None:
            warmed.state, warmed.trouble = State.FAILED, why
            return True
        platforms = parse_platforms(job.order.platforms)
        try:
            await self._fetching.fetch(
                warmed, repository, reference, platforms, bounds, only_here=job.order.only_here
            )
            warmed.state = State.DONE
        except (RegistryError, QuotaReached) as error:
            may_go_on = not isinstance(error, QuotaReached)
            warmed.state, warmed.trouble = State.FAILED, str(error)
            _logger.warning("not warmed: %s", error, extra=fields(image=warmed.image))
        warmed.seconds = self._monotonic() - began
        return may_go_on

    async def _expand(self, job: Job, image: str) -> list[tuple[Warmed, Repository, Reference]]:
        """The images that one name means."""
        try:
            images = self._parse(image)  # the configuration may be another one since
            if images.reference is not None:
                found: Sequence[Reference] = [images.reference]
            else:
                found = await self._list_tags(images)
                if not found:
                    raise ValueError("no tag is like that")  # noqa: TRY301
        except (RegistryError, ValueError) as error:
            job.images.append(Warmed(image, State.FAILED, str(error)))
            return []
        known, room = {it.image for it in job.images}, MOST_IMAGES - len(job.images)
        named = [(Warmed(name_of(images.repository, it)), it) for it in found]
        new = [(one, it) for one, it in named if one.image not in known][: max(0, room)]
        job.images += [one for one, _ in new]
        return [(one, images.repository, it) for one, it in new]

    async def _list_tags(self, images: Images) -> list[Tag]:
        """The tags that are like a pattern, the last by name where there are very many."""
        registry = self._registries[images.repository.namespace]
        scope, page, tags = Scope(images.repository), Page(), list[Tag]()
        for _ in range(_PAGES):
            sent = await registry.list_tags(scope, page)
            names = await asyncio.to_thread(_matching, sent.content, images.pattern or "*")
            tags += map(Tag, names)
            if sent.next_query is None:
                break
            page = _next_page(sent.next_query)
        return tags[-MOST_IMAGES:]

    async def _end(self, job: Job) -> None:
        job.order = msgspec.structs.replace(
            job.order,
            ended_at=self._clock(),
            failed=[f"{it.image}: {it.trouble}" for it in job.images if it.state is State.FAILED],
            images_done=sum(it.state is State.DONE for it in job.images),
            fetched=sum(it.fetched_size for it in job.images),
        )
        job.over.set()
        _logger.info(
            "warmed",
            extra=fields(
                job=job.name, images=job.order.images_done, failed=len(job.order.failed),
                bytes=job.order.fetched,
            ),
        )  # fmt: skip
        ended = [it for it in self.jobs if it.is_over and not it.is_scheduled]
        for old in ended[:-_MOST_KNOWN]:
            del self._jobs[old.name]
        try:
            for old in ended[:-_MOST_KNOWN]:
                await self._wishes.forget_warming(old.name)
            await self._wishes.record_warming(job.name, msgspec.json.encode(job.order))
        except StoreError as error:
            _logger.error("store: %s", error)  # noqa: TRY400 - the message says it all


async def note_to_confirm(wishes: Wishes, images: Sequence[str], *, now: float) -> None:
    """Have the mirror ask, when it starts, whether repositories have what of these images is here.

    `now` in seconds since the epoch. Raises ValueError, StoreError.
    """
    names = [str(parse_images(image)) for image in images]
    order = Order(images=names, only_here=True, started_at=now)
    await wishes.record_warming("rebuild", msgspec.json.encode(order))


def bounds_of(max_bandwidth: int | None, leave_quota: int | None) -> Bounds:
    """Bounds of so many bytes a second, leaving so many pulls."""
    limit = None
    if max_bandwidth is not None:
        limit = AsyncLimiter(max_bandwidth * _BURST, time_period=_BURST)
    return Bounds(limit, leave_quota)


def _matching(content: bytes, pattern: str) -> list[str]:
    """Of a JSON array of tags, those that are like a pattern."""
    names = msgspec.json.decode(content, type=list[str])
    return [name for name in names if fnmatchcase(name, pattern) and _is_tag(name)]


def _is_tag(name: str) -> bool:
    try:
        msgspec.convert(["tag", name], Tag)
    except msgspec.ValidationError:
        return False
    return True


def _next_page(query: Mapping[str, str]) -> Page:
    n = query.get("n", "")
    return Page(
        n=int(n) if n.isdecimal() else None,
        last=query.get("last"),
        extra=tuple((key, value) for key, value in query.items() if key not in {"n", "last"}),
    )
