"""The push side of a scripted registry: uploads in the ways that registries have of taking them.

    registry.push.style = "3"           # GET tells how far an upload is; by default as 2.8
    registry.push.location = "elsewhere"
    registry.fault(kind="upload", method="PATCH", cut_body_at=8 << 20)  # of each request
    gate = registry.push.hold(after=1000)  # of the body of one request

What is taken is held as if `add` had put it there. `asked.received` counts the bytes of each body.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, quote

from aiohttp import web
from multidict import CIMultiDict

from tests.support.delivery import Reply
from tests.support.faults import Asked, Faults, Gate
from tests.support.images import Image, digest_of

_RANGE = re.compile(r"(\d+)-(\d+)")
_SIGNATURE = "a+b/c=="  # in each location; it must come back exactly as it was written


@dataclass(slots=True, eq=False)
class Upload:
    """What has come of a blob."""

    repository: str
    content: bytearray = field(default_factory=bytearray)
    first: int = 0  # bytes of the first part


@dataclass(slots=True)
class Pushes:
    """How a registry takes what is pushed, and the uploads that there are.

    `style`: in 2.8 an upload whose `_state` is of another offset is cancelled; in 3 it is not, and
    a part is held to its `Content-Range`.
    """

    style: Literal["2.8", "3"] = "2.8"
    ignores_content_range: bool = False
    location: Literal["absolute", "relative", "elsewhere", "not of a PATCH"] = "absolute"
    tells: Literal["kept", "part", "first", "one more", "nothing", "0-0"] = "kept"  # in `Range`
    most: int | None = None  # bytes of a request; more is 413
    most_of_part: int | None = None  # bytes of a request with `Content-Range`; more is 416 (GHCR)
    least: int = 0  # `OCI-Chunk-Min-Length`
    takes_chunked_coding: bool = True  # else 411
    takes_parts: bool = True  # else all of a blob must come in one request (Artifact Registry)
    has_status: bool = True  # GET of an upload
    mounts: bool = True
    refuses_mounts_with: int = 0
    posts_whole: bool = True  # 201 at once to a POST with its digest and all bytes; else 202
    loses_what_breaks: bool = False  # a request that breaks leaves nothing
    keeps_multiples_of: int = 1  # a part that is not one is kept in part (Google's storage)
    keeps_of_part: int | None = None  # bytes; all else of a PATCH is gone
    names_digests: bool = True  # `Docker-Content-Digest` of a manifest

    uploads: dict[str, Upload] = field(default_factory=dict)
    peak: int = 0  # most uploads at once
    base: str = ""  # the registry's URL
    elsewhere: str = ""  # that of its storage
    _begun: int = 0
    _gates: list[Gate] = field(default_factory=list)
    _ends: list[Gate] = field(default_factory=list)

    def hold_end(self) -> Gate:
        """Hold the answer to whoever ends an upload, when the blob is there already."""
        self._ends.append(gate := Gate("", None))
        return gate

    def hold(self, *, after: int, times: int = 1) -> Gate:
        """Hold who sends, after so many bytes of the body of one request."""
        gate = Gate("", after)
        self._gates += [gate] * times
        return gate

    def lose(self) -> None:
        """Forget all uploads: a node was replaced."""
        self.uploads.clear()

    async def answer(
        self, request: web.BaseRequest, asked: Asked, repositories: dict[str, Any], faults: Faults
    ) -> Reply | None:
        """What a push is answered with; None: its connection is to be broken."""
        reply = await _Push(self, request, asked, repositories, faults).answer()
        return reply or None

    def begin(self, repository: str) -> str:
        """The name of a new upload."""
        self._begun += 1
        name = f"upload-{self._begun}"
        self.uploads[name] = Upload(repository)
        self.peak = max(self.peak, len(self.uploads))
        return name

    def gates(self) -> list[Gate]:
        """Those that still hold somebody."""
        return [gate for gate in self._gates if not gate.is_decided]

    def ends(self) -> list[Gate]:
        """The same of those at the end."""
        return [gate for gate in self._ends if not gate.is_decided]


_Cut = Literal[False]
"""Instead of an answer: the connection breaks."""


@dataclass(slots=True)
class _Push:
    """One request."""

    ways: Pushes
    request: web.BaseRequest
    asked: Asked
    repositories: dict[str, Any]
    faults: Faults

    @property
    def here(self) -> Any:
        return self.repositories[self.asked.repository]

    async def answer(self) -> Reply | _Cut:
        if self.asked.kind != "upload":
            content = bytearray()
            early = await self._take(content)
            return self._manifest(bytes(content)) if early is None else early
        if self.asked.method == "POST":
            return await self._begin()
        name = self.asked.reference
        if self.faults.find("vanish", self.asked):
            self.ways.uploads.pop(name, None)
        upload = self.ways.uploads.get(name)
        if upload is None or upload.repository != self.asked.repository:
            return _error(404, "BLOB_UPLOAD_UNKNOWN")
        return self._refusal(name, upload) or await self._go_on(name, upload)

    async def _begin(self) -> Reply | _Cut:
        query = parse_qs(self.asked.query)
        if mount := query.get("mount", [""])[0]:
            if self.ways.refuses_mounts_with:
                return _error(self.ways.refuses_mounts_with, "DENIED")
            source = self.repositories.get(query.get("from", [""])[0])
            if self.ways.mounts and source is not None and mount in source.blobs:
                self.here.blobs[mount] = source.blobs[mount]
                return _created(self.asked.repository, mount)
        if self.ways.posts_whole and (digest := query.get("digest", [""])[0]):
            upload = Upload(self.asked.repository)
            early = await self._take(upload.content)
            return self._commit(upload, digest) if early is None else early
        name = self.ways.begin(self.asked.repository)
        reply = self._stands(name, self.ways.uploads[name], 202)
        if self.ways.least:
            reply.headers["OCI-Chunk-Min-Length"] = str(self.ways.least)
        return reply

    def _refusal(self, name: str, upload: Upload) -> Reply | None:
        """What is said to who goes on from where the upload is not."""
        query, size = parse_qs(self.asked.query), len(upload.content)
        if query.get("signature") != [_SIGNATURE]:
            return _error(404, "BLOB_UPLOAD_INVALID", "the location has come back otherwise")
        is_stale = query.get("state") != [str(size)]
        if self.ways.style == "2.8":
            if is_stale:
                del self.ways.uploads[name]
                return _error(404, "BLOB_UPLOAD_INVALID", "resumed at a wrong offset: cancelled")
        elif self.asked.method in {"PATCH", "PUT"} and not self.ways.ignores_content_range:
            match = _RANGE.fullmatch(self.asked.headers.get("Content-Range", ""))
            if is_stale or (match is not None and int(match[1]) != size):
                return _error(416, "RANGE_INVALID")
        return None

    async def _go_on(self, name: str, upload: Upload) -> Reply | _Cut:
        match self.asked.method:
            case "DELETE":
                del self.ways.uploads[name]
                return Reply(status=204)
            case "GET" | "HEAD" if self.ways.has_status:
                return self._stands(name, upload, 204)
            case "PATCH" | "PUT":
                return self._refusal_of_part(upload) or await self._append(name, upload)
            case _:
                return _error(405, "UNSUPPORTED")

    def _refusal_of_part(self, upload: Upload) -> Reply | None:
        """What is said to parts of a kind that is not taken."""
        length, most = self.request.content_length, self.ways.most_of_part
        if length is None and not self.ways.takes_chunked_coding:
            return _error(411, "SIZE_INVALID")
        if "Content-Range" in self.asked.headers and most is not None and (length or 0) > most:
            message = "the request body is too large and exceeds the maximum permissible limit"
            return _error(416, "REQUESTED_RANGE_NOT_SATISFIABLE", message)
        if length != 0 and upload.content and not self.ways.takes_parts:
            return _error(400, "UNSUPPORTED", "no chunked uploads")
        return None

    async def _append(self, name: str, upload: Upload) -> Reply | _Cut:
        content, before = upload.content, len(upload.content)
        early = await self._take(content)
        if early is not None:
            if self.ways.loses_what_breaks:
                del content[before:]
            return early
        sent = len(content) - before
        upload.first = upload.first or sent
        if self.asked.method == "PUT":
            del self.ways.uploads[name]
            reply = self._commit(upload, parse_qs(self.asked.query).get("digest", [""])[0])
            return reply if all([await it.wait(self.asked) for it in self.ways.ends()]) else False
        if sent < self.ways.least:
            del content[before:]
            return _error(416, "SIZE_INVALID", "a part is too small")
        del content[len(content) - len(content) % self.ways.keeps_multiples_of :]
        if self.ways.keeps_of_part is not None:
            del content[before + self.ways.keeps_of_part :]
        return self._stands(name, upload, 202, part=sent)

    async def _take(self, content: bytearray) -> Reply | _Cut | None:
        """Take the body; what it is answered with in its middle, if it is."""
        asked, gates = self.asked, self.ways.gates()
        async for chunk in self.request.content.iter_any():
            start, stop = asked.received, asked.received + len(chunk)
            if self.ways.most is not None and stop > self.ways.most:
                return _error(413, "SIZE_INVALID")
            for gate in gates:
                if start < (gate.after or 0) <= stop and not await gate.wait(asked):
                    content += chunk[: (gate.after or 0) - start]
                    return False
            end, early = await self._ending(start, stop)
            content += chunk[: end - start]
            asked.received = end
            asked.changed()
            if early is not None:
                return await early()
        return None

    async def _ending(
        self, start: int, stop: int
    ) -> tuple[int, Callable[[], Awaitable[Reply | _Cut]] | None]:
        """Where what comes is taken no longer, and what happens then."""
        faults, asked = self.faults, self.asked
        if (status := faults.find_body_status(asked, start, stop)) is not None:
            return status[0], _now(_error(status[1], "UNKNOWN"))
        if (cut := faults.find_position("cut_body_at", asked, start, stop)) is not None:
            return cut, _now(False)
        if (stall := faults.find_position("stall_body_at", asked, start, stop)) is not None:
            return stall, _never
        return stop, None

    def _commit(self, upload: Upload, digest: str) -> Reply:
        content, algorithm = bytes(upload.content), digest.partition(":")[0]
        if algorithm not in {"sha256", "sha512"} or digest_of(content, algorithm) != digest:
            return _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.here.blobs[digest] = content
        return _created(upload.repository, digest)

    def _manifest(self, content: bytes) -> Reply:
        reference, here = self.asked.reference, self.here
        algorithm = reference.partition(":")[0] if ":" in reference else "sha256"
        digest = digest_of(content, algorithm)
        if ":" in reference and reference != digest:
            return _error(400, "DIGEST_INVALID")
        try:
            document = json.loads(content)
        except ValueError:
            return _error(400, "MANIFEST_INVALID")
        if missing := _referred_to(document) - {*here.blobs, *here.manifests}:
            words = [_words("MANIFEST_BLOB_UNKNOWN", detail=digest) for digest in sorted(missing)]
            return _errors(400, words)
        subject = (document.get("subject") or {}).get("digest")
        here.manifests[digest] = Image(
            manifest=content,
            media_type=self.asked.headers.get("Content-Type", ""),
            subject=subject,
            artifact_type=document.get("artifactType"),
            algorithm=algorithm,
        )
        if ":" not in reference:
            here.tags[reference] = digest
        headers = CIMultiDict(Location=f"/v2/{self.asked.repository}/manifests/{digest}")
        if self.ways.names_digests:
            headers["Docker-Content-Digest"] = digest
        if subject:
            headers["OCI-Subject"] = subject
        return Reply(status=201, headers=headers)

    def _stands(self, name: str, upload: Upload, status: int, *, part: int = 0) -> Reply:
        ways, size = self.ways, len(upload.content)
        path = f"/v2/{self.asked.repository}/blobs/uploads/{name}"
        path += f"?signature={quote(_SIGNATURE, safe='')}&state={size}"
        headers = CIMultiDict({"Docker-Upload-UUID": name})
        if not (ways.location == "not of a PATCH" and self.asked.method == "PATCH"):
            base = {"relative": "", "elsewhere": ways.elsewhere}.get(ways.location, ways.base)
            headers["Location"] = f"{base}{path}"
        told = {"kept": size, "part": part or size, "first": upload.first, "one more": size + 1}
        if ways.tells != "nothing":
            headers["Range"] = f"0-{max(told.get(ways.tells, 0) - 1, 0)}"
        return Reply(status=status, headers=headers)


def _now(answer: Reply | _Cut) -> Callable[[], Awaitable[Reply | _Cut]]:
    async def answered() -> Reply | _Cut:
        return answer

    return answered


async def _never() -> Reply | _Cut:
    """Until the client or the test gives up."""
    await asyncio.Event().wait()
    return False


def _referred_to(document: Mapping[str, Any]) -> set[str]:
    """The digests that must be there before a manifest is (spec, end-7)."""
    parts = [document.get("config"), *document.get("layers", ()), *document.get("manifests", ())]
    return {part["digest"] for part in parts if part}


def _created(repository: str, digest: str) -> Reply:
    headers = CIMultiDict(Location=f"/v2/{repository}/blobs/{digest}")
    headers["Docker-Content-Digest"] = digest
    return Reply(status=201, headers=headers)


def _words(code: str, message: str = "", detail: object = None) -> dict[str, object]:
    return {"code": code, "message": message or code.lower().replace("_", " "), "detail": detail}


def _error(status: int, code: str, message: str = "") -> Reply:
    return _errors(status, [_words(code, message)])


def _errors(status: int, errors: list[dict[str, object]]) -> Reply:
    headers = CIMultiDict({"Content-Type": "application/json"})
    return Reply(status=status, headers=headers, body=json.dumps({"errors": errors}).encode())
