"""When the certificate ends that a registry shows: of what connections tell anyway."""

import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from yarl import URL

from mirror.sources.registry.sessions import Response


class Certificate:
    """That of `origin`, as it was last shown. One that was not verified tells nothing."""

    def __init__(self, origin: URL) -> None:
        self._origin = origin
        self._seen: Mapping[str, Any] | None = None
        self.ends: float | None = None
        """When it ends, in seconds since the epoch."""

    def note(self, url: URL, response: aiohttp.ClientResponse) -> None:
        """An answer has come from `url`; each connection's certificate is read once."""
        found = response.certificate if isinstance(response, Response) else None
        if not found or found is self._seen or url.origin() != self._origin:
            return
        self._seen = found
        if isinstance(end := found.get("notAfter"), str):
            with suppress(ValueError):  # a date that no calendar has costs nobody a pull
                self.ends = float(ssl.cert_time_to_seconds(end))
