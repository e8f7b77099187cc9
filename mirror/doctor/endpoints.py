"""Asks an endpoint what a pull would ask it, step by step, and says in plain words what to fix.

Each step is worth taking only where those before it went well: a name that is not found explains
all that follows. Nothing is kept, and no running mirror is needed.
"""

import asyncio
import datetime as dt
import email.utils
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from yarl import URL

from mirror.aio.trust import trust
from mirror.config import Endpoint as EndpointConfig
from mirror.config.proxies import Proxy
from mirror.doctor.finding import Finding
from mirror.oci.descriptor import Descriptor
from mirror.oci.errors import Denied, Missing, RegistryError
from mirror.oci.image import Image
from mirror.oci.manifest import INDEX_TYPES
from mirror.oci.reference import Reference, Tag
from mirror.sources.registry import manifests
from mirror.sources.registry.endpoint import Endpoint, Scope

_PATIENCE = 10.0  # seconds for a step
_SOON = 14  # days; a certificate that ends sooner is worth a word to whoever runs the registry
_CLOCKS_MAY_DIFFER = 60.0  # seconds; tokens and certificates are good for minutes
_SAMPLE = 4 * 2**20  # bytes of a layer
_SLOW = 125_000  # bytes a second: 1 Mbit/s

_NO_AUTHORITY = (
    "name the authority that signed it in ca_file, also where a proxy opens TLS on the way"
)
_OTHER_TIME = "it has to be renewed there, unless the time of this machine is wrong (NTP)"
_MENDS = {9: _OTHER_TIME, 10: _OTHER_TIME, 62: "write the url with a name that it is for"}
"""By what OpenSSL calls it (X509_V_ERR_...): not valid yet, expired, of another host."""


class Examination:
    """What is asked of one endpoint. `where` is its setting; `images` what is pulled, if any."""

    def __init__(
        self,
        where: str,
        config: EndpointConfig,
        endpoint: Endpoint,
        images: Sequence[Image],
        *,
        proxy: Proxy | None = None,
    ) -> None:
        self._proxy = proxy
        self._where = where
        self._config = config
        self._endpoint = endpoint
        self._images = images
        self._parts = urlsplit(config.url)
        self._port = self._parts.port or (443 if self._parts.scheme == "https" else 80)

    async def steps(self) -> AsyncIterator[Finding]:
        """What is found, as it is; what depends on what failed is not tried."""
        steps = [self._name, self._connection, self._api]
        if self._proxy is not None:  # which finds names, and connects
            yield self._ok(f"is reached through the proxy {self._proxy}")
            steps = steps[2:]
        for step in steps:
            findings = await self._take(step())
            for finding in findings:
                yield finding
            if any(finding.level == "error" for finding in findings):
                return
        if not self._images:
            yield self._ok("no image was named (--image): what it sends is not looked at")
        for image in self._images:  # each for itself: one that is missing tells nothing of others
            for finding in await self._take(self._content(image), image):
                yield finding

    async def _take(
        self, step: AsyncIterator[Finding], image: Image | None = None
    ) -> list[Finding]:
        """Take a step; `image` is what it is about."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return [finding async for finding in step]
        except TimeoutError:
            return [self._error(f"no answer within {_PATIENCE:.0f} s: {self._firewall}")]
        except RegistryError as error:
            return [self._error(_in_words(error, image))]

    async def _name(self) -> AsyncIterator[Finding]:
        host = self._parts.hostname or ""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, self._port)
        except OSError as error:
            text = f"{host} is not found ({error.strerror}): look at the name, and at DNS here"
            yield self._error(text)
            return
        addresses = ", ".join(dict.fromkeys(str(info[4][0]) for info in found))
        yield self._ok(f"{host} is {addresses}")

    async def _connection(self) -> AsyncIterator[Finding]:
        context = None
        if self._parts.scheme == "https":
            context = await asyncio.to_thread(trust, self._config.ca_file)
        try:
            _, writer = await asyncio.open_connection(self._parts.hostname, self._port, ssl=context)
        except ssl.SSLCertVerificationError as error:
            do = _MENDS.get(error.verify_code, _NO_AUTHORITY)
            yield self._error(f"its certificate cannot be trusted ({error.verify_message}): {do}")
            return
        except OSError as error:
            why = error.strerror or type(error).__name__
            yield self._error(f"port {self._port} cannot be reached ({why}): {self._firewall}")
            return
        try:
            certificate = writer.get_extra_info("peercert")
        finally:
            writer.close()
        yield self._ok(f"port {self._port} answers")
        if certificate:
            yield self._life(certificate["notAfter"])

    def _life(self, ends: str) -> Finding:
        left = (ssl.cert_time_to_seconds(ends) - dt.datetime.now(dt.UTC).timestamp()) / 86400
        text = f"its certificate is good for {left:.0f} days"
        return Finding("warning" if left < _SOON else "ok", self._where, text)

    async def _api(self) -> AsyncIterator[Finding]:
        url = URL(f"{self._config.url}/v2/", encoded=True)
        async with self._endpoint.exchange.send("GET", url, {}, kind="ping") as response:
            date = response.headers.get("Date")
            if response.status not in {HTTPStatus.OK, HTTPStatus.UNAUTHORIZED}:
                text = f"/v2/ answers {response.status}: that is no registry, or not its whole URL"
                yield self._error(text)
                return
        is_open = response.status == HTTPStatus.OK
        told = "is open" if is_open else "asks who is there"
        yield self._ok(f"speaks the registry API, and {told}")
        if (difference := _difference(date)) is not None and abs(difference) > _CLOCKS_MAY_DIFFER:
            yield Finding(
                "warning",
                self._where,
                f"its clock and this machine's differ by {abs(difference):.0f} s: tokens and"
                " certificates will seem to be over; set the time (NTP)",
            )

    async def _content(self, image: Image) -> AsyncIterator[Finding]:
        repository, reference = image
        if isinstance(reference, Tag) and not self._config.tags:
            return  # it is not asked what tags mean
        layer = await self._layer(Scope(repository), reference)
        if layer is None:
            yield Finding("warning", self._where, f"{repository}:{reference} has no layers to try")
            return
        yield self._ok(f"tells what {repository}:{reference} is")
        async for finding in self._sample(Scope(repository), layer):
            yield finding

    async def _layer(self, scope: Scope, reference: Reference) -> Descriptor | None:
        sent = await manifests.get_manifest(self._endpoint, scope, reference)
        if sent.manifest.media_type in INDEX_TYPES and sent.references.manifests:
            child = sent.references.manifests[0].digest
            sent = await manifests.get_manifest(self._endpoint, scope, child)
        return _largest(sent.references.blobs)

    async def _sample(self, scope: Scope, layer: Descriptor) -> AsyncIterator[Finding]:
        stop = min(layer.size, _SAMPLE)
        began, received = time.monotonic(), 0
        async with self._endpoint.ask(
            "GET", f"blobs/{layer.digest}", scope, {"Range": f"bytes=0-{stop - 1}"}, kind="blob"
        ) as response:
            host, status = response.url.host, response.status
            async for chunk in self._endpoint.exchange.chunks(response):
                received += len(chunk)
                if received >= stop:
                    break
        rate = received / max(time.monotonic() - began, 1e-6)
        if host != self._parts.hostname:
            yield self._ok(f"leads to {host} for layers")
        if status == HTTPStatus.PARTIAL_CONTENT:
            yield self._ok("sends ranges: what breaks is resumed")
        else:
            yield Finding(
                "warning", self._where, "ignores ranges: a layer that breaks begins from its start"
            )
        is_slow = rate < _SLOW and received >= _SLOW  # a few bytes tell of latency only
        text = f"sent {received} bytes of a layer at {rate / 1e6:.2f} MB/s"
        yield Finding("warning" if is_slow else "ok", self._where, text)

    @property
    def _firewall(self) -> str:
        return "a firewall, or no way there but by a proxy?"

    def _ok(self, text: str) -> Finding:
        return Finding("ok", self._where, text)

    def _error(self, text: str) -> Finding:
        return Finding("error", self._where, text)


def _in_words(error: RegistryError, image: Image | None) -> str:
    name = ":".join(map(str, image or ()))
    match error:
        case Denied():
            return (
                f"{error.message}: look at username and password_file, or credential_helper,"
                f" and whether that account may pull {name}"
            )
        case Missing():
            return f"{name} is not there; name another with --image"
        case _:
            return f"{name}: {error.message}" if name else error.message


def _largest(blobs: Sequence[Descriptor]) -> Descriptor | None:
    own = [blob for blob in blobs if not blob.is_foreign and blob.size]
    return max(own, key=lambda blob: blob.size, default=None)


def _difference(date: str | None) -> float | None:
    """Seconds by which a server's `Date` is ahead of our clock; None where it tells none."""
    try:
        told = email.utils.parsedate_to_datetime(date or "")
    except (ValueError, TypeError):
        return None
    if told.tzinfo is None:
        return None
    return (told - dt.datetime.now(dt.UTC)).total_seconds()
