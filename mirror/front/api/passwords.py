"""Passwords of `server.htpasswd_file`, checked so that guessers hold up nobody but themselves.

A check costs tens of milliseconds of a core, by design of bcrypt. So what was right is remembered,
and for a short while what was wrong; whoever asks the same meanwhile waits for the same check; and
checks take turns: by the address that asks and the name it gives, those first that have not failed
lately. Of each of these, too, only so many are wrong before it has to wait (`mirror.aio.guessing`);
who has shown the right one from there a while ago is not concerned. A name that there is not costs
as much as one that there is.
"""

import asyncio
import base64
import hashlib
import logging
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path

import bcrypt
from cachetools import TTLCache

from mirror.aio.addresses import client_of
from mirror.aio.guessing import Guesses
from mirror.aio.waiting import finish
from mirror.front.settings import UnusableFile

_logger = logging.getLogger(__name__)

_BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_CHECKS = 2  # at once, in each worker: guessing passwords takes no more of the machine
_REMEMBERED = 4096
_RIGHT_FOR = 300.0  # seconds
_WRONG_FOR = 300.0  # seconds; with another file all is forgotten
_FAILING_FOR = 10.0  # seconds
_NOBODY = ""  # all names that there are not take turns as one

_Client = tuple[str, str]  # whose address it is, and the name that it gives


class Passwords:
    """Tells right from wrong ones; `hashes` by name."""

    def __init__(
        self, hashes: Mapping[str, bytes], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hashes = hashes
        self._right: TTLCache[bytes, None] = TTLCache(_REMEMBERED, ttl=_RIGHT_FOR)
        self._wrong: TTLCache[bytes, None] = TTLCache(_REMEMBERED, ttl=_WRONG_FOR)
        self._failing: TTLCache[_Client, None] = TTLCache(_REMEMBERED, ttl=_FAILING_FOR)
        self._guesses = Guesses(clock)
        self._checking: dict[bytes, asyncio.Future[bool]] = {}
        self._turns = _Turns(_CHECKS)
        # What no password is known for, as dear as the dearest in the file.
        rounds = max((int(known[4:6]) for known in hashes.values()), default=12)
        self._decoy = b"$2b$%02d$" % rounds + b"." * 53

    async def admits(self, address: str, header: str) -> bool:
        """Whether an `Authorization` header that comes from there holds a name and its password.

        Raises:
            Unavailable: Too many from there have been wrong for the same name.
        """
        key = hashlib.sha256(header.encode(errors="surrogateescape")).digest()
        there = hashlib.sha256(key + client_of(address).encode()).digest()
        if there in self._right:
            return True
        # One's mistake is not another's.
        credentials = None if there in self._wrong else _parse_basic(header)
        if credentials is None:
            return False
        name, password = credentials
        client = (client_of(address), name if name in self._hashes else _NOBODY)
        self._guesses.check(client)  # that others have shown it is no way around this
        if key in self._right:
            self._right[there] = None
            return True
        while (checking := self._checking.get(key)) is not None:
            await asyncio.wait([checking])
            if not checking.cancelled():
                return checking.result()
        self._guesses.begin(client)
        checking = self._checking[key] = asyncio.get_running_loop().create_future()
        try:
            is_right = await self._check(client, password)
            checking.set_result(is_right)
        finally:
            del self._checking[key]
            checking.cancel()  # whoever waited for it tries itself, where its owner has left
        if is_right:
            self._right[key] = self._right[there] = None
            self._guesses.take_back(client)
        else:
            self._wrong[there] = self._failing[client] = None
        return is_right

    async def _check(self, client: _Client, password: bytes) -> bool:
        known = self._hashes.get(client[1])
        await self._turns.take(client, is_late=client in self._failing)
        try:
            # Whoever leaves has a core still at it: the place is taken until that is through.
            loop = asyncio.get_running_loop()
            is_it = await finish(
                loop.run_in_executor(None, bcrypt.checkpw, password, known or self._decoy)
            )
        finally:
            self._turns.give_back()
        return is_it and known is not None


class PasswordFile:
    """Those of a file as it is now; one that makes no sense changes nothing, and is told.

    Raises:
        UnusableFile: It makes no sense to begin with.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen = self._look()
        self._passwords = Passwords(read_htpasswd(path), clock)

    async def admits(self, address: str, header: str) -> bool:
        """As `Passwords.admits`."""
        if (seen := await asyncio.to_thread(self._look)) != self._seen:
            self._seen = seen
            try:
                hashes = await asyncio.to_thread(read_htpasswd, self._path)
            except UnusableFile as error:
                _logger.error("what was read before stays in use: %s", error)  # noqa: TRY400 - no fault
            else:
                self._passwords = Passwords(hashes, self._clock)
        return await self._passwords.admits(address, header)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


class _Turns:
    """`limit` places. Whoever waits gets one when it is its client's turn, the late ones last."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._early: _Queues = OrderedDict()
        self._late: _Queues = OrderedDict()

    async def take(self, client: _Client, *, is_late: bool) -> None:
        """Wait for a place."""
        if self._free:
            self._free -= 1
            return
        queue = (self._late if is_late else self._early).setdefault(client, deque())
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()  # the place had just been given to us
            raise

    def give_back(self) -> None:
        """Hand the place on to the client that has waited longest for a turn."""
        for queues in (self._early, self._late):
            while queues:
                client, queue = queues.popitem(last=False)
                turn = queue.popleft()
                if queue:
                    queues[client] = queue  # behind the others
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1


_Queues = OrderedDict[_Client, deque["asyncio.Future[None]"]]


def _parse_basic(header: str) -> tuple[str, bytes] | None:
    """Name and password (RFC 7617); None where there are none."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(encoded, validate=True).partition(b":")
        return name.decode(), password[:72]  # as much as bcrypt looks at
    except ValueError:  # not base64, or not UTF-8
        return None


def read_htpasswd(path: Path) -> dict[str, bytes]:
    """Apache's format, as `htpasswd -B` writes it.

    Raises:
        UnusableFile: It cannot be read, or a line is not a name and a bcrypt hash.
    """
    hashes = {}
    problems = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UnusableFile(str(path), [f"cannot be read: {error.strerror}"]) from error
    for number, line in enumerate(text.splitlines(), start=1):
        name, _, secret = line.strip().partition(":")
        if _BCRYPT.fullmatch(secret):
            hashes[name] = secret.encode()
        elif line.strip() and not line.startswith("#"):
            problems.append(f"line {number}: not name:bcrypt-hash; write it with `mirror password`")
    if problems:
        raise UnusableFile(str(path), problems)
    return hashes
