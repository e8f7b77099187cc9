"""A registry's repository as a target of pushes (`mirror.sources.targets`).

Only the endpoint that says what tags mean is pushed to, the first of those: what an accelerator
takes, if it takes anything, is nowhere.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from mirror.oci.digest import Digest, digest_of, parse_digest, parse_subject
from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    ErrorCode,
    Missing,
    Refused,
    RegistryError,
    Unavailable,
)
from mirror.oci.reference import Reference, Repository
from mirror.sources.registry import standing
from mirror.sources.registry.blobs import head_blob
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.failover import first_answer
from mirror.sources.registry.intake import Cutter
from mirror.sources.registry.outgoing import Outgoing
from mirror.sources.registry.reading import Senseless, reading
from mirror.sources.targets import Pushed, Sendable, Standing

_Parsed = TypeVar("_Parsed")

_ENDED_WITHIN = 30  # times `stall_timeout`: a registry may hash and copy all of it first
_UPLOAD = "upload"  # as metrics call what it takes


@dataclass(frozen=True, slots=True)
class RegistryTarget:
    """One repository, on one authority, at the endpoint that answers for it."""

    upstream: str
    scope: Scope
    endpoint: Endpoint = field(repr=False)

    @property
    def repository(self) -> Repository:
        """As `Target`."""
        return self.scope.repository

    async def find_blob(self, digest: Digest) -> int | None:
        """As `Target.find_blob`."""
        with suppress(Missing):
            return await first_answer(
                [self.endpoint],
                lambda endpoint: head_blob(endpoint, self.scope, digest, is_cache=False),
            )
        return None

    async def begin(
        self, *, mount: Digest | None = None, source: str | None = None
    ) -> Standing | None:
        """As `Target.begin`; where a registry will not hear of mounting, it begins all the same."""
        if mount is None:
            return await self._begin(self.scope, "")
        query = f"?mount={quote(str(mount), safe='')}"
        if source is not None:
            there = self.endpoint.config.name_there(source)
            query += f"&from={quote(there, safe='')}"
        try:
            return await self._begin(replace(self.scope, source=source), query)
        except Denied as error:
            if self.scope.authorization is not None and error.code is ErrorCode.UNAUTHORIZED:
                raise  # who pushes may have more to show
        except (Missing, Refused):
            pass
        return await self._begin(self.scope, "")

    async def _begin(self, scope: Scope, query: str) -> Standing | None:
        url = self.endpoint.address(scope, f"blobs/uploads/{query}")
        async with self._asking("POST", url, {}, scope=scope) as response:
            if response.status == HTTPStatus.CREATED and query:
                return None
            return standing.begun(response.headers, asked=response.url)

    async def send(
        self, at: Standing, chunks: AsyncIterable[Sendable], *, length: int | None,
        is_alone: bool = False,
    ) -> Standing:  # fmt: skip
        """As `Target.send`: one request, and what the registry takes in one."""
        return await self._send_some(at, Cutter(chunks), length, is_alone=is_alone)

    async def _send_some(
        self, at: Standing, content: Cutter, length: int | None, *, is_alone: bool
    ) -> Standing:
        intake = self.endpoint.intake
        is_part = at.offset > 0 and (length is not None or intake.wants_length)
        most = intake.most(is_part=is_part, least=at.least)
        if length is None and intake.wants_length:
            part = await content.gathered(most, least=at.least)
            body = self.endpoint.exchange.outgoing(part)
        else:
            known = length if length is None or most is None else min(length, most)
            body = self.endpoint.exchange.outgoing(
                content.part(most), length=known, is_alone=is_alone
            )
        return await self._send_part(at, body)

    async def _send_part(self, at: Standing, body: Outgoing) -> Standing:
        headers = _part_headers(at, body.length)
        try:
            async with self._asking("PATCH", _url(at), headers, body=body) as response:
                return standing.sent(response.headers, at, body.sent, asked=response.url)
        except Refused as error:
            self._learn(error, body)
            if error.status_seen == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise Unavailable(
                    "upstream is elsewhere in this upload", status_seen=416
                ) from error
            raise

    def _learn(self, error: Refused, body: Outgoing) -> None:
        """Raises Unavailable where the same would get through in another way."""
        status, has_length = error.status_seen, body.length is not None
        size = body.sent if body.length is None else body.length
        if self.endpoint.intake.refused(status, size, error.errors, has_length=has_length):
            raise Unavailable("upstream wants an upload otherwise", status_seen=status) from error

    async def ask(self, at: Standing) -> Standing:
        """As `Target.ask`."""
        try:
            async with self._asking("GET", _url(at), {}) as response:
                return standing.told(response.headers, at, asked=response.url)
        except Refused as error:  # it has no such question, or the address is worth nothing
            code = ErrorCode.BLOB_UPLOAD_UNKNOWN
            raise Missing(code, "upstream tells nothing of this upload") from error

    async def finish(
        self,
        at: Standing,
        digest: Digest,
        chunks: AsyncIterable[Sendable] | None = None,
        *,
        length: int = 0,
    ) -> None:
        """As `Target.finish`."""
        outgoing = partial(self.endpoint.exchange.outgoing, patience=_ENDED_WITHIN)
        if chunks is None:
            await self._end(at, digest, outgoing(b""))
            return
        content = Cutter(chunks)
        most = self.endpoint.intake.most(is_part=at.offset > 0, least=at.least)
        while most is not None and length > most:
            before, at = at, await self._send_some(at, content, most, is_alone=True)
            if at.offset != before.offset + most:
                raise Unavailable("upstream keeps less than it was sent")
            length -= most
        await self._end(at, digest, outgoing(content.part(None), length=length, is_alone=True))

    async def _end(self, at: Standing, digest: Digest, body: Outgoing) -> None:
        headers = _part_headers(at, body.length)
        try:
            url = standing.ending(_url(at), digest)
            async with self._asking("PUT", url, headers, body=body) as response:
                is_there = response.status == HTTPStatus.CREATED and not _names_another(
                    response.headers, digest
                )
        except Refused as error:
            self._learn(error, body)
            raise
        if not is_there and await self.find_blob(digest) is None:
            raise Unavailable("upstream does not say that it has what was uploaded")

    async def cancel(self, at: Standing) -> None:
        """As `Target.cancel`."""
        with suppress(RegistryError):
            async with self._asking("DELETE", _url(at), {}):
                pass

    async def put_manifest(self, reference: Reference, media_type: str, content: bytes) -> Pushed:
        """As `Target.put_manifest`."""
        body = self.endpoint.exchange.outgoing(content, patience=_ENDED_WITHIN)
        headers = {"Content-Type": media_type, "Content-Length": str(len(content))}
        url = self.endpoint.address(self.scope, f"manifests/{reference}")
        async with self._asking("PUT", url, headers, kind="manifest", body=body) as response:
            pushed, is_there = (
                _pushed(response.headers, reference, content),
                response.status == HTTPStatus.CREATED,
            )
        if not is_there:
            await self._require_manifest(reference, media_type, pushed.digest)
        return pushed

    async def _require_manifest(
        self, reference: Reference, media_type: str, digest: Digest
    ) -> None:
        """See that it is there, where the answer was not the one for that (end-7).

        Raises:
            Unavailable: It is not, or something else is.
        """
        url = self.endpoint.address(self.scope, f"manifests/{reference}")
        headers = {"Accept": media_type}
        try:
            async with self._asking("HEAD", url, headers, kind="manifest") as response:
                told = response.headers.get("Docker-Content-Digest", "")
        except Missing:
            told = ""
        if _parsed(parse_digest, told) != digest:
            raise Unavailable("upstream does not say that it has the manifest")

    @asynccontextmanager
    async def _asking(
        self,
        method: str,
        url: URL,
        headers: dict[str, str],
        *,
        scope: Scope | None = None,
        kind: str = _UPLOAD,
        body: Outgoing | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yields a response of 2xx. Raises as `Endpoint.push`, and what the body's bringer does."""
        try:
            with reading(self.endpoint.config.url), _understood():
                async with self.endpoint.push(
                    method, url, scope or self.scope, headers, kind=kind, body=body
                ) as response:
                    if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                        raise Unavailable(
                            "upstream leads an upload elsewhere in its middle",
                            status_seen=response.status,
                        )
                    yield response
        except Missing as error:
            if kind == _UPLOAD:
                is_new = method == "POST"
                error.code = ErrorCode.NAME_UNKNOWN if is_new else ErrorCode.BLOB_UPLOAD_UNKNOWN
            raise
        except Senseless as error:
            if body is not None and body.error is not None:
                raise body.error from error
            raise Unavailable(error.message, status_seen=error.status_seen) from error
        except Denied as error:
            if url.origin() == URL(self.endpoint.config.url).origin():
                raise
            raise Unavailable("upstream's storage takes the upload no longer") from error


@contextmanager
def _understood() -> Iterator[None]:
    """Raises Missing where a registry says so in its words alone: some answer 400."""
    try:
        yield
    except Refused as error:
        if not any(it.get("code") == ErrorCode.BLOB_UPLOAD_UNKNOWN for it in error.errors):
            raise
        missing = Missing(ErrorCode.BLOB_UPLOAD_UNKNOWN, error.message)
        missing.errors = error.errors
        raise missing from error


def _part_headers(at: Standing, length: int | None) -> dict[str, str]:
    """Of so many bytes (None: in chunked coding); of all at once, as docker sends it.

    Some take whatever names its range for a part, which may be of so many bytes only.
    """
    headers = {"Content-Type": "application/octet-stream"}
    if length is not None:
        headers["Content-Length"] = str(length)
        if at.offset and length:
            headers["Content-Range"] = f"{at.offset}-{at.offset + length - 1}"
    return headers


def _url(at: Standing) -> URL:
    return URL(at.location, encoded=True)


def _pushed(headers: Mapping[str, str], reference: Reference, content: bytes) -> Pushed:
    """What a registry says that it has. Raises DigestMismatch: it is something else."""
    digest = reference if isinstance(reference, Digest) else digest_of(content)
    told, subject = (headers.get(name, "") for name in ("Docker-Content-Digest", "OCI-Subject"))
    if (said := _parsed(parse_digest, told)) is not None and not said.names(content):
        raise DigestMismatch("upstream has something else than was pushed")
    return Pushed(digest, _parsed(parse_subject, subject))


def _names_another(headers: Mapping[str, str], digest: Digest) -> bool:
    """Whether a registry says that what it has is called otherwise.

    By another algorithm it is: distribution tells the sha256 of what was pushed by its sha512.
    """
    said = _parsed(parse_digest, headers.get("Docker-Content-Digest", ""))
    return said is not None and said.algorithm == digest.algorithm and said != digest


def _parsed(parse: Callable[[str], _Parsed], text: str) -> _Parsed | None:
    """None where nothing (sensible) is said."""
    try:
        return parse(text)
    except RegistryError:
        return None
