"""The one place where whatever goes wrong in reading an answer ends.

Nothing that upstream sends may do more than fail the one request that it answers. What is read is
read with care; what care has overlooked becomes `Senseless` here, so that the next endpoint is
asked, and is logged with its traceback.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from mirror.oci.errors import RegistryError, Unavailable
from mirror.sources.registry.headers import LARGEST_SIZE
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)


class Senseless(Unavailable):
    """An answer makes no sense. That tells nothing of other answers: the endpoint's health stays.

    It does not leave the package: whoever asks is told `Unavailable`.
    """


class Broken(Unavailable):
    """A connection that there was has broken. That tells of the connection, or of what was asked.

    Lines are bad, and there are firewalls that look at what is asked for. It does not leave the
    package either.
    """


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Read an answer of the endpoint at `url` inside the block. Raises Senseless."""
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        _logger.warning(
            "upstream's answer makes no sense", exc_info=error, extra=fields(endpoint=url)
        )
        raise Senseless("upstream's answer makes no sense") from error


def read_json(document: bytes, *, what: str) -> object:
    """What a JSON document says. Raises Senseless, with `what` it should have been."""
    try:
        value: object = json.loads(document.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise Senseless(f"{what} makes no sense") from error
    return value


def size_of(response: aiohttp.ClientResponse) -> int | None:
    """The length in bytes that a response promises. Raises Senseless for what nothing can have."""
    size = response.content_length
    if size is not None and size > LARGEST_SIZE:
        raise Senseless("upstream names a length that nothing can have")
    return size
