"""A mirror that takes pushes, before a scripted registry that takes them too."""

from typing import Any

from tests.conftest import StartMirror
from tests.support.mirror import InnerMirror, Mirror, upstream_at
from tests.support.upstream import ScriptedRegistry

NAME = "library/app"


async def start_pushing(
    start_mirror: StartMirror, upstream: ScriptedRegistry, **overrides: Any
) -> InnerMirror:
    """`settings` are of the upstream, the rest by section."""
    fill = {"stall_timeout": "2s"} | overrides.pop("fill", {})
    settings = upstream_at(upstream.url) | {"push": "client"} | overrides.pop("settings", {})
    return await start_mirror({"docker.io": settings}, fill=fill, **overrides)


def held(upstream: ScriptedRegistry, digest: str) -> bytes | None:
    """What upstream has under a digest."""
    here = upstream.repositories.get(NAME)
    return None if here is None else here.blobs.get(digest)


def bytes_taken(upstream: ScriptedRegistry) -> int:
    """Bytes of uploads that upstream was sent."""
    return sum(asked.received for asked in upstream.asked("upload"))


def spooled(mirror: Mirror) -> list[str]:
    """What is on disk of uploads."""
    directory = mirror.store_root / "push"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []
