"""A worker's process; `mirror.front.workers.pool` starts it, and nobody does by hand."""

import signal
import socket

import uvloop

from mirror.aio.garbage import spare_what_is_there
from mirror.front.workers.worker import serve_until_lost
from mirror.telemetry import log


def main(descriptor: str, level: str, style: str) -> None:
    """Its end of the channel, and how it logs."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are for the mirror's process, which tells us
    writer = log.start(level, "json" if style == "json" else "text")
    spare_what_is_there()
    try:
        uvloop.run(serve_until_lost(socket.socket(fileno=int(descriptor))))
    finally:
        writer.stop()
