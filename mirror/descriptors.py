"""How many files may be open at once: as many as the system allows, and whether that is enough."""

import errno
import logging
import resource
from contextlib import suppress

from mirror.config import Config
from mirror.storage.open_files import MOST_POOLED
from mirror.telemetry import log

_logger = logging.getLogger(__name__)

_TO_START, _FOR_A_WORKER = 64, 2  # databases, sockets, pipes


def allow_descriptors(config: Config) -> None:
    """As many as the system lets us have; a download takes a handful, and shells allow 1024.

    Raises:
        OSError: The mirror would not even start with these; whatever met that first would name
            a file that has nothing to do with it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # forbidden: then it is what it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, to_start, for_all = _descriptors(config)
    if 0 <= allowed < to_start:
        raise OSError(
            errno.EMFILE,
            f"the system allows {allowed} open files; the mirror needs {to_start} to start, and"
            f" {for_all} for all that fill.max_active allows: raise it (LimitNOFILE, ulimit -n)",
        )


def _descriptors(config: Config) -> tuple[int, int, int]:
    """How many are allowed (-1: any), how many it takes to start, and how many for all downloads.

    Each connection of a client takes one more, of a worker.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    to_start = _TO_START + _FOR_A_WORKER * config.server.worker_count
    downloads = config.fill.max_active * (config.fill.connections + 2)  # a file, a range
    return allowed, to_start, to_start + MOST_POOLED + downloads


def warn_of_descriptors(config: Config) -> None:
    """Tell where there are too few for all downloads."""
    allowed, _, for_all = _descriptors(config)
    if 0 <= allowed < for_all:
        _logger.warning(
            "few files may be open at once: raise the limit (LimitNOFILE, ulimit -n)",
            extra=log.fields(allowed=allowed, needed=for_all),
        )
