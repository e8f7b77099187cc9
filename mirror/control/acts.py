"""What operators have a mirror do with images: the contract of those operations of `/api/v1`.

Units as in `models.py`. Images are named as people name them; told they are whole, with registry.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct


class Pin(Struct, frozen=True, kw_only=True):
    """A pinned image, and how it stands."""

    image: str
    platforms: list[str]  # none: all of them
    refresh: float  # seconds between two questions what the tag means
    source: Literal["configuration", "operator"]
    state: Literal["complete", "incomplete", "refused"]
    trouble: str | None
    blobs: int  # that are pinned for it
    bytes: int  # of those, that are here


class Pins(Struct, frozen=True, kw_only=True):
    """All pinned images, by name."""

    pins: list[Pin]


class ToPin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image that shall be here, and stay."""

    image: str
    platforms: list[str] = []
    refresh: Annotated[float, Meta(gt=0, le=1e9)] | None = None


class ImageName(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image, such as `ghcr.io/org/app:1`."""

    image: str


class Removed(Struct, frozen=True, kw_only=True):
    """What of an image has gone."""

    image: str
    tags: list[str]  # that are forgotten
    blobs: int
    bytes: int
    kept: int  # blobs of it that something else needs


class ToCollect(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether it is only to be told what would go."""

    dry_run: bool = False


class Collected(Struct, frozen=True, kw_only=True):
    """What has gone, or would: nothing on record named it any more."""

    dry_run: bool
    blobs: int
    bytes: int
    records: int  # digests of which all that was known is forgotten
    partials: int
    partial_bytes: int
    quarantine_bytes: int
    database_bytes: int


class EndpointName(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint by its name, URL or host; none: all of that upstream."""

    upstream: Annotated[str, Meta(min_length=1, max_length=600)]
    endpoint: Annotated[str, Meta(min_length=1, max_length=600)] | None = None


class PausedEndpoint(Struct, frozen=True, kw_only=True):
    """One that is asked nothing; `since` then."""

    upstream: str
    endpoint: str
    since: float


class Paused(Struct, frozen=True, kw_only=True):
    """All of them."""

    paused: list[PausedEndpoint]


class ToWarm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Images that shall be here before anybody asks; their tags may be patterns (`3.*-slim`)."""

    images: Annotated[list[str], Meta(min_length=1, max_length=1000)]
    platforms: list[str] = []  # none: all of them


class WarmedLayer(Struct, frozen=True, kw_only=True):
    """A blob that is being fetched."""

    digest: str
    size: int
    written: int


class WarmedImage(Struct, frozen=True, kw_only=True):
    """How far the fetching of one image has come."""

    image: str
    state: Literal["waiting", "asking", "fetching", "pausing", "done", "failed"]
    trouble: str | None
    blobs: int
    bytes: int
    here_blobs: int  # before it began
    here_bytes: int
    fetched_blobs: int
    fetched_bytes: int  # of these
    seconds: float  # that it took; 0 until it is over
    layers: list[WarmedLayer]


class WarmJob(Struct, frozen=True, kw_only=True):
    """A list of images that are fetched."""

    name: str
    is_scheduled: bool
    started_at: float
    ended_at: float | None
    platforms: list[str]
    wanted: list[str]  # images, as they were named
    failed: list[str]  # once it has ended
    done: int  # images; once it has ended
    fetched: int  # bytes; once it has ended
    images: list[WarmedImage]  # none of a job of before the last restart


class WarmSchedule(Struct, frozen=True, kw_only=True):
    """What is fetched by the clock, and what came of it the last time."""

    image: str
    at: str
    next_at: float
    is_running: bool
    last_at: float | None
    last_failed: list[str]
    last_done: int
    last_fetched: int


class Warmings(Struct, frozen=True, kw_only=True):
    """Everything that is fetched beforehand, or was of late."""

    jobs: list[WarmJob]
    schedules: list[WarmSchedule]
