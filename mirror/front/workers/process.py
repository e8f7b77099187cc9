"""A worker's process; `mirror.front.workers.pool` starts it, and nobody does by hand."""

import signal
import socket

import uvloop

from mirror.aio.garbage import spare_what_is_there
from mirror.front.workers.worker import serve_until_lost
from mirror.telemetry import log
from mirror.telemetry.service import call_this_process


def main(descriptor: str, level: str, style: str, number: str, journal: str) -> None:
    """Its end of the channel, how it logs, its number, and whether a journal reads the log."""
    call_this_process(f"mirror: worker {number}")
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # they are for the mirror's process, which tells us
    writer = log.start(level, "json" if style == "json" else "text", to_journal=bool(journal))
    spare_what_is_there()
    try:
        uvloop.run(serve_until_lost(socket.socket(fileno=int(descriptor))))
    finally:
        writer.stop()
