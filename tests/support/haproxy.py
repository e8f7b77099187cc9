"""A real HAProxy in front of mirrors, with a file of `deploy/`; only its addresses are others."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.mirror import Mirror
from tests.support.process import Process, answers, free_port
from tests.support.require import require

_SHIPPED = Path(__file__).parents[2] / "deploy" / "shared"


@asynccontextmanager
async def running_haproxy(
    directory: Path, file: str, mirrors: Sequence[Mirror]
) -> AsyncIterator[str]:
    """Run it in front of `mirrors`, as many as `file` names, inside the block; its URL."""
    require("haproxy")
    port = free_port()
    text = (_SHIPPED / file).read_text(encoding="utf-8")
    text, binds = re.subn(r"^  bind :5000$", f"  bind 127.0.0.1:{port}", text, flags=re.MULTILINE)
    addresses = iter(mirrors)

    def replaced(server: re.Match[str]) -> str:
        mirror = next(addresses)
        return f"{server[1]} {mirror.host} port {mirror.admin_host.rpartition(':')[2]}"

    text, servers = re.subn(r"^(  server \S+) \S+:5000$", replaced, text, flags=re.MULTILINE)
    assert (binds, servers) == (1, len(mirrors))
    log = "  log stdout format raw local0\n  option httplog\n"
    text = text.replace("defaults\n", f"defaults\n{log}")
    configuration = directory / "haproxy.cfg"
    configuration.write_text(text, encoding="utf-8")
    url = f"http://127.0.0.1:{port}"

    async def is_ready() -> bool:
        return await answers(f"{url}/v2/")

    command = ("haproxy", "-db", "-f", configuration)
    process = Process(command, log=directory / "haproxy.log", ready=is_ready)
    async with process:
        yield url
        await process.kill()  # what it was asked for is over
