"""Hashing files that are there already, piece by piece, in a process of its own.

As a program (`HashingProcess` runs it) it reads one JSON array a line, and answers in kind:

    ["open", PATH, ALGORITHM]   {"size": bytes} or {"errno": number}
    ["read", BYTES]             {"read": bytes} (0 at the end) or {"errno": number}
    ["end"]                     {"hash": hexadecimal}

Where it is `idle`, it is of Linux's class of that name: it has the processor while nobody else
wants it and (ioprio_set(2)) the disk too, where that has a scheduler that knows classes. A thread
would not do: it would be put aside while it holds the interpreter's lock. It ends with its standard
input.
"""

import asyncio
import errno
import hashlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from typing import Any

PIECE = 2**20  # bytes; after each, whoever paces it may let others go first

_NICE = 10  # clients go first, however urgent it is

Pace = Callable[[int], Awaitable[None]]
"""Awaited before so many bytes are read."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """What a file is: its size in bytes, and its hash in hexadecimal."""

    size: int
    hexadecimal: str


class HashedFile:
    """An open file on the way to its hash. All of it blocks.

    What it reads comes from the disk, and not from the page cache, which would hide what the disk
    has lost; and it pushes nothing out of that cache that somebody may want.
    """

    def __init__(self, path: str, algorithm: str) -> None:
        self._hasher = hashlib.new(algorithm)
        self._file = FileIO(path)
        self.size = os.fstat(self._file.fileno()).st_size
        self._advise(os.POSIX_FADV_DONTNEED)
        self._advise(os.POSIX_FADV_SEQUENTIAL)

    def read(self, length: int) -> int:
        """Hash up to `length` bytes more; how many there were."""
        content = self._file.read(length) or b""
        self._hasher.update(content)
        return len(content)

    def end(self) -> str:
        """What it hashes to."""
        return self._hasher.hexdigest()

    def close(self) -> None:
        """Close it."""
        if not self._file.closed:
            self._advise(os.POSIX_FADV_DONTNEED)
            self._file.close()

    def _advise(self, advice: int) -> None:
        with suppress(OSError):  # not every file system takes advice
            os.posix_fadvise(self._file.fileno(), 0, 0, advice)


class HashingProcess:
    """Hashes in a process that is started when it is first needed."""

    def __init__(self, *, is_idle: bool) -> None:
        self._priority = "idle" if is_idle else "nice"
        self._process: asyncio.subprocess.Process | None = None

    async def hash(self, path: str, algorithm: str, pace: Pace) -> Hashed:
        """Hash all of a file, one at a time. Raises OSError."""
        try:
            size = await self._ask("size", "open", path, algorithm)
            read = PIECE
            while read:
                await pace(PIECE)
                read = await self._ask("read", "read", PIECE)
            return Hashed(size, await self._ask("hash", "end"))
        except BaseException as error:
            if not isinstance(error, OSError) or isinstance(error, ConnectionError):
                await self.close()  # in the midst of an answer, or dead
            raise

    async def close(self) -> None:
        """End the process; it is started again when it is needed."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        assert process.stdin is not None  # noqa: S101 - see `_start`
        process.stdin.close()
        await process.wait()

    async def _ask(self, name: str, *question: object) -> Any:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", __file__, self._priority,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - both are pipes
        assert stdout is not None  # noqa: S101
        answer = b""
        if not stdin.is_closing():  # uvloop's says of a process that has just died what it likes
            stdin.write(json.dumps(question).encode() + b"\n")
            answer = await stdout.readline()
        if not answer:
            raise ConnectionResetError("the process that hashes has ended")
        said = json.loads(answer)
        if "errno" in said:
            raise OSError(said["errno"], os.strerror(said["errno"]))
        return said[name]


def _answer(file: HashedFile | None, question: list[Any]) -> tuple[HashedFile | None, object]:
    what, *arguments = question
    if what == "open":
        if file is not None:
            file.close()
        file = HashedFile(*arguments)
        return file, {"size": file.size}
    if file is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if what == "read":
        return file, {"read": file.read(*arguments)}
    said = {"hash": file.end()}
    file.close()
    return None, said


def main() -> None:
    """Answer questions until there are no more."""
    # Where the system forbids either, it hashes all the same.
    with suppress(OSError):
        os.nice(_NICE)
    if sys.argv[1:] == ["idle"]:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    file = None
    for line in sys.stdin:
        try:
            file, answer = _answer(file, json.loads(line))
        except OSError as error:
            answer = {"errno": error.errno or errno.EIO}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
