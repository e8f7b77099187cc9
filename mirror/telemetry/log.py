"""Logs: one line per request and per event, as text or as JSON, with the request's id.

Events carry their facts in `extra=fields(...)`; both formats print them.
"""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any, Literal

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being answered; empty outside one."""


def fields(**values: object) -> dict[str, Any]:
    """Facts to log beside a message, for `extra=`."""
    return {"fields": values, "request_id": request_id.get()}


def start(level: str, style: Literal["text", "json"]) -> QueueListener:
    """Send the mirror's logs to standard error from a thread, so that a slow pipe blocks no pull.

    Returns:
        The listener; stop it to flush what is queued.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else _TextFormatter())
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    root = logging.getLogger()
    root.handlers[:] = [_Enqueue(queue)]
    root.setLevel(logging.WARNING)  # of libraries, only what went wrong
    logging.getLogger("mirror").setLevel(level.upper())
    listener = QueueListener(queue, handler)
    listener.start()
    return listener


class _Enqueue(QueueHandler):
    """Hands records over as they are: they stay in this process, so nothing need be pickled."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = [f"{key}={_word(value)}" for key, value in _facts(record).items()]
        message = record.getMessage().replace("\n", "\\n")
        line = " ".join([_time(record), record.levelname, message, *facts])
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
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _facts(record: logging.LogRecord) -> dict[str, object]:
    identity = getattr(record, "request_id", "")
    return getattr(record, "fields", {}) | ({"id": identity} if identity else {})


def _word(value: object) -> str:
    """A value as one shell-like word, so that text lines can be cut at spaces."""
    text = str(value)
    plain = text.isprintable() and text and not any(mark in text for mark in ' "=')
    return text if plain else json.dumps(text)
