"""The part of the table that is about endpoints that are asked nothing for a while."""

from mirror.control import acts
from mirror.control.api.keeping import MAY_REFUSE, refusing
from mirror.control.api.operations import Operation
from mirror.control.pausing import Pausing


def pausing_operations(pausing: Pausing) -> tuple[Operation, ...]:
    """Everything there is of it."""
    return (
        Operation(
            "pauseEndpoint", "POST", "/endpoints/pause",
            "Ask an endpoint nothing, until it is resumed; over restarts, too.",
            acts.Paused, refusing(pausing.pause), acts.EndpointName, may_refuse=MAY_REFUSE,
        ),
        Operation(
            "resumeEndpoint", "POST", "/endpoints/resume", "Ask an endpoint again.",
            acts.Paused, refusing(pausing.resume), acts.EndpointName, may_refuse=MAY_REFUSE,
        ),
    )  # fmt: skip
