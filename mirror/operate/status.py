"""`mirror status`, as a person reads it."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mirror.control.acts import WarmSchedule
from mirror.control.models import Endpoint, Fill, Status
from mirror.control.units import brief, date, duration, size

_BAR = 20  # columns
_DIGEST = 19  # characters: sha256: and twelve more
_PER_CENT = 100
_DAY = 86400.0  # seconds
_SOON = 14 * _DAY  # before a certificate ends: as the page


def show(status: Status, now: float) -> RenderableType:
    """The whole status; `now` in seconds since the epoch."""
    parts: list[RenderableType] = [
        _head(status, now), *_problems(status), *_certificates(status, now), _endpoints(status)
    ]  # fmt: skip
    if status.fills:
        parts.append(_fills(status))
    if status.pushes:
        parts.append(_pushes(status))
    if status.schedules:
        parts.append(_schedules(status, now))
    return Group(*parts)


def _head(status: Status, now: float) -> Table:
    served, store = status.served, status.store
    table = Table.grid(padding=(0, 2))
    health = status.health.status
    up = duration(max(0.0, now - status.started_at))
    table.add_row(
        "mirror", Text.assemble(
            f"{status.version}, up {up}, ", (health, "green" if health == "ok" else "bold red")
        ),
    )  # fmt: skip
    ratio = f"{served.hits * _PER_CENT / served.lookups:.0f} %" if served.lookups else "-"
    table.add_row(
        "served",
        f"{size(served.bytes)} in {served.requests} requests, hits {ratio};"
        f" fetched {size(served.fetched)}, saved {size(served.saved)}",
    )
    table.add_row(
        "store",
        f"{size(store.disk)} of {size(store.limit)} with {store.blobs} blobs at {store.root};"
        f" {size(store.free)} free on its disk",
    )
    table.add_row(
        "now",
        f"{status.connections} connections, {len(status.fills)} downloads"
        + (f" ({status.waiting} wait for a slot)" if status.waiting else ""),
    )
    return table


def _problems(status: Status) -> Iterator[RenderableType]:
    for problem in status.health.problems:
        yield Text.assemble(("! ", "bold red"), f"{problem.what}: {problem.why}")


def _certificates(status: Status, now: float) -> Iterator[RenderableType]:
    """Those of endpoints that end soon, or have ended."""
    for one in status.endpoints:
        if one.certificate_ends is None or one.certificate_ends - now >= _SOON:
            continue
        left = int((one.certificate_ends - now) // _DAY)
        says = "has ended" if left < 0 else f"ends in {left} days"
        what = f"the certificate of {one.url} ({one.upstream}) {says}"
        yield Text.assemble(("! ", "bold red"), f"{what}: {date(one.certificate_ends)}")


def _endpoints(status: Status) -> Table:
    table = Table(
        "upstream", "endpoint", "state", "rate", "received", "first byte", "pulls left", box=None
    )
    for one in status.endpoints:
        table.add_row(
            one.upstream, one.name, _state(one), _rate(one), size(one.received),
            _first_byte(one), _quota(one),
        )  # fmt: skip
    for name in status.sealed:
        table.add_row(name, "-", Text("sealed: never asked"), *["-"] * 4)
    return table


def _quota(endpoint: Endpoint) -> str:
    """What is left of the pulls that upstream allows, and until when."""
    quota = endpoint.quota
    if quota is None:
        return "-"
    most = "" if quota.limit is None else f" of {quota.limit}"
    until = "" if quota.until is None else f", until {date(quota.until)}"
    return f"{_known(quota.remaining)}{most}{until}"


def _first_byte(endpoint: Endpoint) -> str:
    """Half of the answers began within the first time, nine of ten within the second."""
    found = endpoint.first_byte
    return "-" if found is None else f"{brief(found.median)} / {brief(found.p90)}"


def _rate(endpoint: Endpoint) -> str:
    """What comes, and what may."""
    most = "" if endpoint.max_rate is None else f" of {size(endpoint.max_rate)}/s"
    return f"{size(endpoint.rate)}/s{most}"


def _state(endpoint: Endpoint) -> Text:
    if endpoint.paused_since is not None:
        return Text(f"paused since {date(endpoint.paused_since)}", "yellow")
    if not endpoint.is_up:
        again = f", again in {duration(endpoint.retry_seconds)}"
        return Text(f"down{again if endpoint.retry_seconds else ''}", "bold red")
    if endpoint.pauses:
        kinds = ", ".join(f"{it.requests} {duration(it.seconds)}" for it in endpoint.pauses)
        return Text(f"limited: {kinds}", "yellow")
    return Text("up", "green")


def _fills(status: Status) -> Table:
    table = Table("download", "", "of", "rate", "left", "readers", "of", "from", box=None)
    for one in status.fills:
        table.add_row(
            (one.digest or "private")[:_DIGEST], _bar(one),
            "?" if one.size is None else size(one.size),
            f"{size(one.rate)}/s",
            "-" if one.seconds_left is None else duration(one.seconds_left),
            str(one.readers), one.repository or f"others of {one.upstream}", one.endpoint or "-",
        )  # fmt: skip
    return table


def _pushes(status: Status) -> Table:
    table = Table("push to", "", "here", "sent", "clients", box=None)
    for one in status.pushes:
        table.add_row(
            f"{one.upstream}/{one.repository or '(private)'}", one.state, size(one.received),
            size(one.sent), str(one.clients),
        )  # fmt: skip
    return table


def _schedules(status: Status, now: float) -> Table:
    table = Table("fetched by the clock", "at", "next", "the last time", box=None)
    for one in status.schedules:
        table.add_row(
            one.image, one.at, f"in {duration(max(0.0, one.next_at - now))}", _last_time(one)
        )
    return table


def _last_time(schedule: WarmSchedule) -> Text:
    """What came of it."""
    if schedule.last_at is None:
        return Text("-")
    if schedule.is_running:
        return Text("is running", "yellow")
    said = f"{schedule.last_done} images, {size(schedule.last_fetched)} came"
    if not schedule.last_failed:
        return Text(said, "green")
    return Text(f"{said}; {len(schedule.last_failed)} failed", "bold red")


def _bar(fill: Fill) -> RenderableType:
    if fill.size is None:
        return Text(f"{size(fill.written)} ({fill.state})")
    return ProgressBar(total=max(1, fill.size), completed=fill.written, width=_BAR)


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)
