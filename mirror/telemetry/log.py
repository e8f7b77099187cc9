"""Logs: one line per request and per event, as text or as JSON, with the request's id.

Events carry their facts in `extra=fields(...)`; both formats print them. Lines are written in
batches by a thread: a slow pipe blocks no pull, and a wake-up for each line would cost more than
the request that it tells of.
"""

import json
import logging
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, TextIO

_PLAIN = (int, float)  # types whose text is a word as it is
_GATHERED = 0.05  # seconds for which lines are gathered
_MOST_HELD = 8 * 2**20  # characters, of lines that nobody has read yet
_STOP_WITHIN = 5.0  # seconds for which a stopping process waits for whoever reads
_FORMATTER = logging.Formatter()

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being answered; empty outside one."""


def fields(**values: object) -> dict[str, Any]:
    """Facts to log beside a message, for `extra=`."""
    return {"fields": values, "request_id": request_id.get()}


def explain(logger: logging.Logger, message: str, **facts: object) -> None:
    """Log at level DEBUG what decides a pull; it costs next to nothing where nobody wants it."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug(message, extra=fields(**facts))


Shared = tuple[tuple[str, ...], tuple[object, ...]]
"""Names and values of facts that many lines have in common; short, hashable, and no numbers."""

_NONE: Shared = ((), ())


def tell(
    logger: logging.Logger, message: str, facts: dict[str, object], shared: Shared = _NONE
) -> None:
    """Log a line at level INFO, for what happens all the time: as cheaply as it can be done.

    A record's way through `logging` costs more than most requests that it tells of; where the
    mirror's own writer listens, it is told directly. What lines share is made text once.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    for handler in logging.root.handlers:
        if isinstance(handler, LineWriter):
            now = time.time()  # noqa: TID251 - what `logging` stamps records with
            identity = request_id.get()
            handler.write(Line(now, "INFO", logger.name, message, facts, identity, shared=shared))
            return
    record = logging.LogRecord(logger.name, logging.INFO, "", 0, message, (), None)
    record.fields = dict(zip(*shared, strict=True)) | facts
    record.request_id = request_id.get()
    logger.handle(record)


def start(level: str, style: Literal["text", "json"], *, to_journal: bool = False) -> "LineWriter":
    """Send the mirror's logs to standard error; `to_journal`: that is systemd's.

    Returns:
        The writer; stop it to write what it has gathered.
    """
    chosen = _json if style == "json" else _text
    writer = LineWriter(sys.stderr, partial(_prioritized, chosen) if to_journal else chosen)
    root = logging.getLogger()
    root.handlers[:] = [writer]
    root.setLevel(logging.WARNING)  # of libraries, only what went wrong
    logging.getLogger("mirror").setLevel(level.upper())
    return writer


def set_level(level: str) -> None:
    """Tell more, or less, from now on."""
    logging.getLogger("mirror").setLevel(level.upper())


class Line(NamedTuple):
    """What is told, before it is text."""

    created: float  # seconds since the epoch
    level: str
    logger: str
    message: str
    facts: dict[str, object]
    request_id: str
    traceback: str = ""
    shared: Shared = _NONE  # goes before the facts


class LineWriter(logging.Handler):
    """Formats at once, and writes soon after.

    While nobody reads, it holds so many lines and drops the next; whoever reads again is told how
    many those were.
    """

    def __init__(self, stream: TextIO, style: Callable[[Line], str]) -> None:
        super().__init__()
        self._stream = stream
        self._style = style
        self._lines: deque[str] = deque()
        self._held = 0  # characters; near enough, where several threads write
        self._dropped = 0  # lines
        self._filled = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write_until_stopped, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Write what came through `logging`."""
        self.write(
            Line(
                record.created,
                record.levelname,
                record.name,
                record.getMessage(),
                getattr(record, "fields", {}),
                getattr(record, "request_id", ""),
                _FORMATTER.formatException(record.exc_info) if record.exc_info else "",
            )
        )

    def write(self, line: Line) -> None:
        """Write a line; any thread may."""
        if self._held > _MOST_HELD:
            self._dropped += 1
            return
        text = self._style(line)
        self._held += len(text)
        self._lines.append(text)
        if not self._filled.is_set():
            self._filled.set()

    def stop(self) -> None:
        """Write what there is, as far as somebody reads it, and nothing from now on."""
        self._stopped.set()
        self._filled.set()
        self._thread.join(_STOP_WITHIN)

    def _write_until_stopped(self) -> None:
        while not self._stopped.is_set():
            self._filled.wait()
            self._stopped.wait(_GATHERED)
            self._filled.clear()  # before looking: what comes from now on sets it again
            self._write()
        self._write()  # what came while the last was written

    def _write(self) -> None:
        with suppress(OSError, ValueError):  # nobody listens any more: the mirror goes on
            while lines := self._take():
                for text in _pieces(lines):
                    self._stream.write(text)
                    self._stream.flush()

    def _take(self) -> list[str]:
        """What is to be written next, and how much has been dropped since the last time."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        self._held = 0
        dropped, self._dropped = self._dropped, 0
        if dropped:
            facts: dict[str, object] = {"lines": dropped}
            told = Line(time.time(), "WARNING", __name__, "nobody read the log", facts, "")  # noqa: TID251 - as above
            lines.append(self._style(told))
        return lines


def _pieces(lines: list[str]) -> Iterator[str]:
    """Whole lines, as many at a time as go into a pipe in one piece (POSIX, write: PIPE_BUF).

    Several processes write to the same pipe; longer pieces would be torn, and mixed.
    """
    piece = ""
    length = 0  # bytes
    for line in lines:
        more = 1 + (len(line) if line.isascii() else len(line.encode(errors="replace")))
        if piece and length + more > select.PIPE_BUF:
            yield piece
            piece, length = "", 0
        piece += f"{line}\n"
        length += more
    if piece:
        yield piece


_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


def _prioritized(style: Callable[[Line], str], line: Line) -> str:
    """Each line with its priority before it, as the journal reads it (sd-daemon(3))."""
    priority = f"<{_PRIORITIES.get(line.level, 5)}>"
    return priority + style(line).replace("\n", f"\n{priority}")


def _text(line: Line) -> str:
    text = f"{_time(line.created)} {line.level} {line.message}"
    if "\n" in text:
        text = text.replace("\n", "\\n")
    if line.shared is not _NONE:
        text += _shared(line.shared)
    for key, value in line.facts.items():
        text += f" {key}={value}" if type(value) in _PLAIN else _fact(key, str(value))
    if line.request_id:
        text += f" id={line.request_id}"
    return f"{text}\n{line.traceback}" if line.traceback else text


def _json(line: Line) -> str:
    document: dict[str, object] = {
        "time": _time(line.created),
        "level": line.level.lower(),
        "logger": line.logger,
        "message": line.message,
        **dict(zip(*line.shared, strict=True)),
        **line.facts,
    }
    if line.request_id:
        document["id"] = line.request_id
    if line.traceback:
        document["traceback"] = line.traceback
    return json.dumps(document, default=str)


def _time(created: float) -> str:
    """In UTC, so that lines of several machines can be laid side by side."""
    return _millisecond(int(created * 1000))


@lru_cache(maxsize=8)
def _millisecond(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03}+00:00"


@lru_cache(maxsize=1024)
def _shared(shared: Shared) -> str:
    return "".join(_fact(key, str(value)) for key, value in zip(*shared, strict=True))


@lru_cache(maxsize=1024)
def _fact(key: str, value: str) -> str:
    """A value as one shell-like word, so that text lines can be cut at spaces."""
    plain = value.isprintable() and value and not any(mark in value for mark in ' "=')
    return f" {key}={value if plain else json.dumps(value)}"
