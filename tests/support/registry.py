"""A real registry (distribution, Debian's docker-registry), also as a pull-through cache."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import yaml

from tests.support.images import Image, push
from tests.support.process import Process, answers, free_port
from tests.support.require import require

_ACCESS = re.compile(r'^127\.0\.0\.1 .*"(?P<asked>[A-Z]+ \S+) HTTP/1\.1"', re.MULTILINE)


class Registry:
    """A running registry; `process` may be stopped and started again."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}"

    async def push(self, image: Image, repository: str, tag: str) -> Image:
        await push(image, self.url, repository, tag)
        return image

    def asked(self) -> Sequence[str]:
        """What it was asked so far, such as `GET /v2/`."""
        return [match["asked"] for match in _ACCESS.finditer(self.process.log())]


@asynccontextmanager
async def running_registry(
    directory: Path, *, cache_of: str | None = None
) -> AsyncIterator[Registry]:
    """Run a registry in `directory`; with the URL of another one, as its pull-through cache."""
    require("docker-registry")
    port = free_port()
    process = Process(
        ("docker-registry", "serve", _configure(directory, port, cache_of)),
        log=directory / "registry.log",
        ready=partial(answers, f"http://127.0.0.1:{port}/v2/"),
    )
    async with process:
        yield Registry(process, port)


def _configure(directory: Path, port: int, cache_of: str | None) -> Path:
    settings = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if cache_of is not None:
        settings["proxy"] = {"remoteurl": cache_of}
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "registry.yml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file
