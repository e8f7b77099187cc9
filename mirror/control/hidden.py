"""What is left of what the overview tells for whoever may not be told what is private. Pure.

Private is what belongs to an upstream where each client's own login decides (`access = "client"`):
names of its repositories, and digests. Sums, and that something goes on, are everybody's.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from mirror.control.models import Configuration, Fill, Push, Status


def without_private(status: Status) -> Status:
    """The same, with nothing in it that is private."""
    pushes = [replace(it, repository=None) if it.is_private else it for it in status.pushes]
    return replace(status, fills=nameless(status.fills), pushes=list[Push](pushes))


def nameless(fills: Sequence[Fill]) -> list[Fill]:
    """Downloads; of what is private it is not told what comes."""
    return [replace(it, repository=None, digest=None) if it.is_private else it for it in fills]


def without_names(found: Configuration) -> Configuration:
    """The configuration, without the repositories that it names of what is private."""
    document = found.configuration
    upstreams = {
        name: it if it["access"] != "client" else it | {"allow": [], "deny": []}
        for name, it in document["upstream"].items()
    }
    return Configuration(configuration=document | {"upstream": upstreams})
