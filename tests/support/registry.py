"""A real registry (distribution, Debian's docker-registry), also as a pull-through cache."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import yaml

from tests.support.images import Image, push
from tests.support.process import Process, answers, free_port
from tests.support.require import require

_ACCESS = re.compile(r'^127\.0\.0\.1 .*"(?P<asked>[A-Z]+ \S+) HTTP/1\.1"', re.MULTILINE)

User = tuple[str, str]
"""A name and its password."""


class Registry:
    """A running registry; `process` may be stopped and started again."""

    def __init__(self, process: Process, port: int, user: User | None = None) -> None:
        self.process = process
        self._headers = {} if user is None else {"Authorization": aiohttp.encode_basic_auth(*user)}
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}"

    async def push(
        self, image: Image, repository: str, tag: str, *, token: str | None = None
    ) -> Image:
        headers = self._headers if token is None else {"Authorization": f"Bearer {token}"}
        await push(image, self.url, repository, tag, headers=headers)
        return image

    def asked(self) -> Sequence[str]:
        """What it was asked so far, such as `GET /v2/`."""
        return [match["asked"] for match in _ACCESS.finditer(self.process.log())]


@asynccontextmanager
async def running_registry(
    directory: Path,
    *,
    cache_of: str | None = None,
    user: User | None = None,
    auth: Mapping[str, Any] | None = None,
) -> AsyncIterator[Registry]:
    """Run a registry in `directory`; with the URL of another one, as its pull-through cache.

    With a `user`, nobody else is let in (htpasswd); `auth` is another section of its configuration.
    """
    require("docker-registry")
    port = free_port()
    process = Process(
        ("docker-registry", "serve", _configure(directory, port, cache_of, user, auth)),
        log=directory / "registry.log",
        ready=partial(answers, f"http://127.0.0.1:{port}/v2/", 401 if user or auth else 200),
    )
    async with process:
        yield Registry(process, port, user)


def _configure(
    directory: Path,
    port: int,
    cache_of: str | None,
    user: User | None,
    auth: Mapping[str, Any] | None,
) -> Path:
    settings: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if auth is not None:
        settings["auth"] = dict(auth)
    if cache_of is not None:
        settings["proxy"] = {"remoteurl": cache_of}
    directory.mkdir(parents=True, exist_ok=True)
    if user is not None:
        name, password = user
        secret = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
        file = directory / "htpasswd"
        file.write_text(f"{name}:{secret}\n", encoding="utf-8")
        settings["auth"] = {"htpasswd": {"realm": "registry", "path": str(file)}}
    file = directory / "registry.yml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file
