"""Where aiohttp's exceptions end: what each of them tells of a registry, and no secret with it."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from yarl import URL

from mirror.oci.errors import RegistryError, Unavailable
from mirror.sources.registry.reading import Broken, Senseless
from mirror.sources.registry.routes import INSIDE, host_of, reason_of


@contextmanager
def sending(url: URL) -> Iterator[None]:
    """What comes out of sending a request: it did not get there, or the answer makes no sense."""
    try:
        with receiving(url):
            yield
    except RegistryError:
        raise
    except Exception as error:  # what a parser says of what upstream has sent
        raise Senseless(
            f"{host_of(url)} answered with something that is no HTTP: {type(error).__name__}"
        ) from error


@contextmanager
def decoding() -> Iterator[None]:
    """What comes out of decoding a body. Raises Senseless."""
    try:
        yield
    except ValueError as error:
        raise Senseless(f"upstream's answer is {error}") from error


@contextmanager
def receiving(url: URL) -> Iterator[None]:
    """Turn aiohttp's exceptions into ours, which name the host only: a query may hold secrets."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        said = error.certificate_error
        of = said.verify_message if isinstance(said, ssl.SSLCertVerificationError) else str(said)
        raise Unavailable(
            f"{host_of(url)} has a certificate that cannot be trusted: {of}"
        ) from error
    except TimeoutError as error:
        raise Unavailable(f"{host_of(url)} is silent", timed_out=True) from error
    except aiohttp.ClientConnectorDNSError as error:
        why = INSIDE if error.strerror == "no public address" else error.strerror
        raise Unavailable(f"{host_of(url)} cannot be reached: {why}") from error
    except aiohttp.ClientConnectorError as error:
        raise Unavailable(f"{host_of(url)} cannot be reached: {reason_of(error)}") from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
        raise Broken(f"the connection to {host_of(url)} broke: {type(error).__name__}") from error
