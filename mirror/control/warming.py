"""What operators are told of warming, and ask for, in the API's words."""

from mirror.control import acts
from mirror.pull.warm.progress import Warmed
from mirror.pull.warm.schedule import Entry, Schedule
from mirror.pull.warm.warming import Job, Warming


class Warmers:
    """Tells of jobs and schedules, and starts jobs. Raises as `Warming`."""

    def __init__(self, warming: Warming, schedule: Schedule) -> None:
        self._warming = warming
        self._schedule = schedule

    async def start(self, wanted: acts.ToWarm) -> acts.WarmJob:
        """Begin a job."""
        return self._job(await self._warming.start(wanted.images, wanted.platforms))

    async def list_warmings(self) -> acts.Warmings:
        """Everything."""
        return acts.Warmings(
            jobs=[self._job(job) for job in self._warming.jobs], schedules=self.schedules()
        )

    def schedules(self) -> list[acts.WarmSchedule]:
        """What is fetched by the clock."""
        return [self._entry(entry) for entry in self._schedule.entries]

    def _job(self, job: Job) -> acts.WarmJob:
        order = job.order
        return acts.WarmJob(
            name=job.name, is_scheduled=job.is_scheduled, started_at=order.started_at,
            ended_at=order.ended_at, platforms=order.platforms, wanted=order.images,
            failed=order.failed, done=order.images_done, fetched=order.fetched,
            images=[self._image(warmed) for warmed in job.images],
        )  # fmt: skip

    def _image(self, warmed: Warmed) -> acts.WarmedImage:
        layers = [
            acts.WarmedLayer(
                digest=str(digest), size=size, written=self._warming.written(warmed, digest)
            )
            for digest, size in warmed.under_way.items()
        ]
        return acts.WarmedImage(
            image=warmed.image, state=warmed.state.value, trouble=warmed.trouble,
            blobs=warmed.blobs, bytes=warmed.size, here_blobs=warmed.here_blobs,
            here_bytes=warmed.here_size, fetched_blobs=warmed.fetched_blobs,
            fetched_bytes=warmed.fetched_size, seconds=warmed.seconds, layers=layers,
        )  # fmt: skip

    def _entry(self, entry: Entry) -> acts.WarmSchedule:
        last = self._schedule.last_of(entry)
        return acts.WarmSchedule(
            image=entry.warm.image, at=entry.warm.at.text, next_at=entry.next_at,
            is_running=last is not None and not last.is_over,
            last_at=None if last is None else last.order.started_at,
            last_failed=[] if last is None else last.order.failed,
            last_done=0 if last is None else last.order.images_done,
            last_fetched=0 if last is None else last.order.fetched,
        )  # fmt: skip
