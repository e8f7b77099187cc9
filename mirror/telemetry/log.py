"""Logs: one line per request and per event, as text or as JSON, with the request's id.

Events carry their facts in `extra=fields(...)`; both formats print them. Lines are written in
batches by a thread: a slow pipe blocks no pull, and a wake-up for each line would cost more than
the request that it tells of.
"""

import json
import logging
import sys
import threading
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TextIO

_PLAIN = (int, float)  # types whose text is a word as it is
_GATHER = 0.05  # seconds for which lines are gathered

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being answered; empty outside one."""


def fields(**values: object) -> dict[str, Any]:
    """Facts to log beside a message, for `extra=`."""
    return {"fields": values, "request_id": request_id.get()}


def tell(logger: logging.Logger, message: str, facts: dict[str, object]) -> None:
    """Log a line at level INFO, for what happens all the time: as cheaply as logging allows.

    `Logger.info` would look for the caller, and check every fact against the record's own names.
    """
    if logger.isEnabledFor(logging.INFO):
        record = logging.LogRecord(logger.name, logging.INFO, "", 0, message, (), None)
        record.fields = facts
        record.request_id = request_id.get()
        logger.handle(record)


def start(level: str, style: Literal["text", "json"]) -> "Writer":
    """Send the mirror's logs to standard error.

    Returns:
        The writer; stop it to write what it has gathered.
    """
    writer = Writer(sys.stderr)
    writer.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    # What no line tells need not be found out for each ("Optimization" in Python's logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [writer]
    root.setLevel(logging.WARNING)  # of libraries, only what went wrong
    logging.getLogger("mirror").setLevel(level.upper())
    return writer


class Writer(logging.Handler):
    """Formats at once, and writes soon after."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []
        self._filled = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write_until_stopped, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Called with the handler's lock held."""
        self._lines.append(self.format(record))
        if len(self._lines) == 1:
            self._filled.set()

    def stop(self) -> None:
        """Write what there is, and nothing from now on."""
        self._stopped.set()
        self._filled.set()
        self._thread.join()

    def _write_until_stopped(self) -> None:
        while not self._stopped.is_set():
            self._filled.wait()
            self._stopped.wait(_GATHER)
            self._write()

    def _write(self) -> None:
        self.acquire()
        lines, self._lines = self._lines, []
        self._filled.clear()
        self.release()
        if lines:
            with suppress(OSError, ValueError):  # nobody listens any more: the mirror goes on
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_time(record)} {record.levelname} {record.getMessage()}"
        if "\n" in line:
            line = line.replace("\n", "\\n")
        for key, value in _facts(record).items():
            line += f" {key}={value if type(value) in _PLAIN else _word(str(value))}"
        if record.exc_info:
            line += f"\n{self.formatException(record.exc_info)}"
        return line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _time(record: logging.LogRecord) -> str:
    """In UTC, so that lines of several machines can be laid side by side."""
    return f"{_second(int(record.created))}.{int(record.msecs):03}+00:00"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _facts(record: logging.LogRecord) -> dict[str, object]:
    facts: dict[str, object] = getattr(record, "fields", {})
    if identity := getattr(record, "request_id", ""):
        facts["id"] = identity
    return facts


@lru_cache(maxsize=1024)
def _word(text: str) -> str:
    """A value as one shell-like word, so that text lines can be cut at spaces."""
    plain = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if plain else json.dumps(text)
