"""The mirror's own credentials for one endpoint: from a file or a helper, read anew as they change.

A user called `<token>` has an identity token for a secret, as in docker's configuration: an OAuth2
refresh token, for token servers only, and no password.
"""

import asyncio
import base64
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mirror.aio.single_flight import SingleFlight
from mirror.aio.tasks import Starter
from mirror.config import Endpoint as EndpointConfig
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)

_IDENTITY_TOKEN = "<token>"  # noqa: S105 - the name that docker gives to the user of one
_WATCH_INTERVAL = 1.0  # seconds
_HELPER_TIMEOUT = 10.0  # seconds; those of clouds ask a server of theirs
_HELPER_LIFE = 300.0  # seconds; what helpers hand out ends unannounced (GCR's in an hour)
_LARGEST = 1 << 20  # characters of a helper's answer
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HUB_ADDRESS = "https://index.docker.io/v1/"  # under which docker keeps what belongs to Docker Hub


class Unusable(Exception):
    """There are no credentials where the configuration says; the text says why, and no secret."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Who the mirror is at a registry."""

    username: str
    secret: str = field(repr=False)

    @property
    def is_identity_token(self) -> bool:
        """Whether the secret is a refresh token."""
        return self.username == _IDENTITY_TOKEN

    @property
    def basic(self) -> str:
        """As `Authorization` (RFC 7617)."""
        pair = f"{self.username}:{self.secret}"
        return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"


class Credentials(ABC):
    """Where a credential comes from; what was had last serves while that is in trouble."""

    def __init__(self) -> None:
        self._last: Credential | None = None

    @abstractmethod
    def version(self) -> object:
        """Changes when the credential is known to have, or must be had anew."""

    async def watch(self) -> None:
        """Have `version` tell of changes that nobody announces; does not return."""
        await asyncio.Event().wait()

    @abstractmethod
    def refused(self) -> None:
        """The registry does not take it: the next is had anew."""

    @abstractmethod
    async def _get(self) -> Credential:
        """Have it from where it comes from. Raises Unusable."""

    async def get(self) -> Credential:
        """The credential of now.

        Raises:
            Unusable: There is none.
        """
        try:
            self._last = await self._get()
        except Unusable as error:
            if self._last is None:
                raise
            _logger.warning("the last credentials are used on: %s", error)
        return self._last


class FileCredentials(Credentials):
    """A configured user, and a file with the secret."""

    def __init__(self, username: str, file: Path) -> None:
        super().__init__()
        self._username = username
        self._file = file
        self._version: object = None
        self._read_as: object = None

    def version(self) -> object:
        """What the file was when it was last looked at: replaced or written, it is another."""
        return self._version

    def refused(self) -> None:
        """Only another file can help, and is noticed."""

    async def watch(self) -> None:
        """Look at the file now and then."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            with suppress(OSError):  # it is being replaced: what was read serves on
                self._version = await asyncio.to_thread(_look, self._file)

    async def _get(self) -> Credential:
        try:
            version = await asyncio.to_thread(_look, self._file)
            if self._last is None or version != self._read_as:
                secret = await asyncio.to_thread(self._file.read_text, encoding="utf-8")
                self._last = Credential(self._username, secret.strip("\r\n"))
                self._read_as = version  # as it was before: what is written meanwhile is read again
        except OSError as error:
            raise Unusable(f"{self._file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise Unusable(f"{self._file} is not UTF-8") from error
        self._version = version
        return self._last


def _look(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


class HelperCredentials(Credentials):
    """A program `docker-credential-NAME` (github.com/docker/docker-credential-helpers)."""

    def __init__(self, name: str, host: str, *, clock: Callable[[], float], tasks: Starter) -> None:
        super().__init__()
        self._program = f"docker-credential-{name}"
        self._address = _HUB_ADDRESS if host in _HUB_HOSTS else host
        self._clock = clock
        self._good_until = 0.0
        self._version = 0
        self._flights: SingleFlight[None, Credential] = SingleFlight(tasks)

    def version(self) -> object:
        """Counts the times that it was refused, or has run out."""
        if self._last is not None and self._clock() >= self._good_until:
            self.refused()
        return self._version

    def refused(self) -> None:
        """The helper is asked again, which knows how to renew it."""
        if self._good_until:
            self._version += 1
            self._good_until = 0.0

    async def _get(self) -> Credential:
        if self._last is not None and self._clock() < self._good_until:
            return self._last
        return await self._flights.join(None, self._ask)

    async def _ask(self) -> Credential:
        """Run it: once, however many layers want a token at the same time."""
        credential = _parse_helper(self._program, await self._run())
        self._good_until = self._clock() + _HELPER_LIFE
        return credential

    async def _run(self) -> bytes:
        # Its question waits for it in a pipe: one that ends without having read it is no trouble.
        question = await asyncio.to_thread(_pipe_with, f"{self._address}\n".encode())
        try:
            process = await asyncio.create_subprocess_exec(
                self._program, "get", stdin=question, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise Unusable(f"{self._program} cannot be run: {error.strerror}") from error
        finally:
            os.close(question)
        try:
            async with asyncio.timeout(_HELPER_TIMEOUT):
                output, _ = await process.communicate()
        except TimeoutError as error:
            raise Unusable(f"{self._program} takes more than {_HELPER_TIMEOUT:.0f} s") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):  # and what it has started
                    os.killpg(process.pid, 9)
                await process.wait()
        if process.returncode:
            raise Unusable(f"{self._program} has nothing for {self._address}")
        return output


def credentials_of(
    config: EndpointConfig, *, clock: Callable[[], float], tasks: Starter
) -> Credentials | None:
    """Where the credential of an endpoint comes from; None where the mirror is nobody there."""
    if config.credential_helper is not None:
        return HelperCredentials(config.credential_helper, config.host, clock=clock, tasks=tasks)
    if config.username is not None and config.password_file is not None:
        return FileCredentials(config.username, config.password_file)
    return None


def log_unusable(endpoint: str, error: Unusable) -> None:
    """Tell an operator what a client is not told: paths and programs are none of its business."""
    _logger.error("no credentials: %s", error, extra=fields(endpoint=endpoint))


def _pipe_with(content: bytes) -> int:
    """The reading end of a pipe that holds this, and nothing more."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return reading


def _parse_helper(program: str, output: bytes) -> Credential:
    try:
        document = json.loads(output[:_LARGEST])
        username, secret = document["Username"], document["Secret"]
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise Unusable(f"{program} answers with something that is no credential") from error
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise Unusable(f"{program} answers with something that is no credential")
    return Credential(username or _IDENTITY_TOKEN, secret)
