"""The part of the table that is about images that are fetched before anybody asks."""

from mirror.control import acts
from mirror.control.api.keeping import MAY_REFUSE, refusing
from mirror.control.api.operations import Operation
from mirror.control.warming import Warmers


def warming_operations(warmers: Warmers) -> tuple[Operation, ...]:
    """Everything there is of it; `GET /warm/events` tells the same as `listWarmings`."""

    async def warmings(_: None) -> acts.Warmings:
        return await warmers.list_warmings()

    return (
        Operation(
            "listWarmings", "GET", "/warm", "Images that are fetched beforehand, and how far.",
            acts.Warmings, warmings,
        ),
        Operation(
            "warm", "POST", "/warm", "Fetch images before anybody asks for them.",
            acts.WarmJob, refusing(warmers.start), acts.ToWarm, may_refuse=MAY_REFUSE,
        ),
    )  # fmt: skip
