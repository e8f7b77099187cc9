"""The port that clients talk to: every request comes in here, and leaves a line and its counts.

aiohttp's router is not used: it decodes and normalises paths before anyone can see what was asked.
"""

import itertools
import logging
import secrets
import time
from http import HTTPStatus

from aiohttp import web

from mirror.front.api import errors, responses
from mirror.front.api.access import Access
from mirror.front.api.facts import Facts
from mirror.front.api.handlers import Handlers
from mirror.front.api.welcome import welcome
from mirror.front.ports import FaultElsewhere
from mirror.oci.errors import (
    Denied,
    DigestMismatch,
    ErrorCode,
    Missing,
    RangeNotSatisfiable,
    RegistryError,
    Unavailable,
)
from mirror.oci.push_request import may_be_push, parse_push
from mirror.oci.request import TOKENS, origin_form, parse_target
from mirror.telemetry.asked import LONGEST_AGENT, Requests, Told
from mirror.telemetry.faults import Faults
from mirror.telemetry.log import request_id, tell
from mirror.telemetry.traffic import Result, Sort, Traffic, Why

_logger = logging.getLogger(__name__)

_METHODS = frozenset({"GET", "HEAD"})
_ALIKE = ("result", "upstream", "repository", "digest", "client", "agent")  # in the log
_ERROR = 400  # this status, and those above
_LEFT = 499  # the status in the log of a client that has left, as nginx has it


class Frontend:
    """aiohttp's low-level handler."""

    def __init__(
        self,
        handlers: Handlers,
        access: Access,
        traffic: Traffic,
        requests: Requests,
        faults: Faults,
    ) -> None:
        self._handlers = handlers
        self._access = access
        self._traffic = traffic
        self._requests = requests
        self._faults = faults
        self.page = ""  # shown to browsers at `/`
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        began = time.perf_counter()
        identity = f"{self._prefix}-{next(self._numbers)}"
        request_id.set(identity)
        facts = Facts()
        status = _LEFT  # unless there is a response: whose client leaves, is cancelled
        try:
            try:
                response = await self._admitted(request, facts)
            except ConnectionError as error:  # the client has left, or is let go: nobody to answer
                facts.error = str(error)
                return _abort(request, facts.response or web.Response(status=_LEFT))
            except Exception as error:  # noqa: BLE001 - what nobody expected is a client's answer too
                response = self._explain(request, error, facts, identity)
            status = response.status
            if not response.prepared:
                response.headers["Server"] = responses.SERVER
                if facts.is_last:
                    response.force_close()
                if status >= _ERROR or facts.namespace is not None:
                    _complete(response, facts, identity)
            return response
        finally:
            self._account(request, facts, status, began)

    def refuse(self, request: web.BaseRequest, status: int) -> web.Response:
        """Answer what is no request; it is counted, and told without its text."""
        facts = Facts(error="not a request that can be read (RFC 9112)")
        self._tell("malformed", request, facts, status, None)
        response = errors.malformed(status)
        _complete(response, facts, request_id.get())
        return response

    def note_refused(
        self, peer: object, why: str, status: int = HTTPStatus.REQUEST_TIMEOUT
    ) -> None:
        """A connection is let go before there was a request; it counts as one with this status."""
        self._traffic.count(Sort("", None, "other", status, None), 0.0, 0)
        client = peer[0] if isinstance(peer, tuple) else "-"
        tell(_logger, "no request", {"client": client, "error": why})

    def confess(self, error: BaseException) -> web.Response:
        """Answer a request whose answer could not be sent as it was."""
        self._faults.note("request", error)
        identity = request_id.get()
        response = errors.unknown(identity)
        _complete(response, Facts(told=(Result.ERROR, Why.FAULT, None)), identity)
        return response

    async def _admitted(self, request: web.BaseRequest, facts: Facts) -> web.StreamResponse:
        if not self._access.is_open and not await self._is_let_in(request):
            return errors.unauthorized()
        raw, facts.host = request.raw_path, request.headers.get("Host", "")
        if not raw.startswith("/"):
            raw, facts.host = origin_form(raw, facts.host)
        if self._handlers.takes_pushes and may_be_push(request.method, raw):
            pushed = parse_push(request.method, raw)
            if pushed is not None:
                return await self._handlers.pushes.answer(request, pushed, facts)
        if request.method not in _METHODS and not _takes_form(request.method, raw):
            return errors.unsupported()
        if raw == "/" and (shown := welcome(request, self.page, facts.host)) is not None:
            return shown
        target = parse_target(raw)
        facts.namespace = target.ns
        response = await self._handlers.answer(request, target, facts)
        # A body that is not sent yet. Asking the type itself is cheap: `isinstance` asks the ABCs.
        if type(response) is web.Response and request.method == "GET":
            facts.sent = len(response.body) if isinstance(response.body, bytes) else 0
        return response

    async def _is_let_in(self, request: web.BaseRequest) -> bool:
        """Whether its password is right, if one is wanted. Raises Denied for its network."""
        if not self._access.admits_address(request):
            raise Denied(ErrorCode.DENIED, "this mirror does not serve your network")
        return await self._access.admits_password(request)

    def _explain(
        self, request: web.BaseRequest, error: Exception, facts: Facts, identity: str
    ) -> web.StreamResponse:
        """What becomes of a request that cannot be answered."""
        if isinstance(error, RangeNotSatisfiable):
            return errors.not_satisfiable(error)
        facts.told = _told_of(error)
        facts.error = str(error)
        if facts.response is not None:
            # Too late for another status, and it must not look complete.
            return _abort(request, facts.response)
        if isinstance(error, RegistryError):
            agent = "" if facts.is_login else request.headers.get("User-Agent", "")
            return errors.render(
                error, agent=agent, missing=facts.missing, is_personal=facts.is_personal,
                relay=facts.relay,
            )  # fmt: skip
        if not isinstance(error, FaultElsewhere):
            self._faults.note("request", error)
        return errors.unknown(identity)

    def _account(self, request: web.BaseRequest, facts: Facts, status: int, began: float) -> None:
        asked = request.raw_path
        if TOKENS in asked:  # what goes to a token server is none of the log's business
            asked = asked.partition("?")[0]
        self._tell(f"{request.method} {asked}", request, facts, status, began)

    def _tell(
        self, what: str, request: web.BaseRequest, facts: Facts, status: int, began: float | None
    ) -> None:
        """Count it, and log it; `began` is None where nothing was asked."""
        seconds = 0.0 if began is None else time.perf_counter() - began
        method = request.method if request.method in _METHODS else "other"
        client = request.remote or "-"
        agent = request.headers.get("User-Agent", "-")[:LONGEST_AGENT]
        kind, repository, how = facts.kind, facts.repository, facts.told
        result, why, _ = how or _NOTHING
        if how is None or kind is None or repository is None or began is None:
            sort = Sort(facts.upstream, kind, method, status, result)
            self._traffic.count(sort, seconds, facts.sent)
        else:
            key = (
                client, agent, method, status, kind, repository, facts.reference,
                facts.digest, how,
            )  # fmt: skip
            self._requests.note(key, began, seconds, facts.sent)
        told: dict[str, object] = {
            "status": status, "bytes": facts.sent,
            "ms": int(seconds * 10_000) / 10,  # `round` takes longer than all of this line
        }  # fmt: skip
        alike = (
            result or "-", facts.upstream or "-", repository.name if repository else "-",
            facts.digest or "-", client, agent,
        )  # fmt: skip
        if facts.received:
            told["received"] = facts.received
        if why is not None and why is not Why.HERE:
            told["why"] = why
        if facts.endpoint is not None:
            told["endpoint"] = facts.endpoint
        if facts.error is not None:
            told["error"] = facts.error
        tell(_logger, what, told, (_ALIKE, alike))


def _complete(response: web.StreamResponse, facts: Facts, identity: str) -> None:
    """What an error says, by which to find its line in the log; and whose content it is."""
    headers = response.headers
    headers["Server"] = responses.SERVER
    # Only one that has led to an upstream: a client's text has no place in a header.
    if facts.namespace is not None and facts.upstream:
        headers["OCI-Namespace"] = facts.namespace  # spec, "Registry Proxying"
    if response.status >= _ERROR:
        headers["X-Request-Id"] = identity
        if facts.told is not None:
            headers["Cache-Status"] = responses.failed_status(facts.told[0])


def _takes_form(method: str, raw: str) -> bool:
    """Only what goes to a token server may be a form."""
    return method == "POST" and raw.startswith(TOKENS)


_NOTHING = (None, None, None)
_TOLD: tuple[tuple[type[Exception], Told], ...] = (
    (Missing, (Result.MISS, Why.MISSING, None)),
    (Denied, (Result.DENIED, Why.DENIED, None)),
    (Unavailable, (Result.ERROR, Why.UPSTREAM_DOWN, None)),
    (DigestMismatch, (Result.ERROR, Why.WRONG_BYTES, None)),
    (RegistryError, (Result.ERROR, Why.UPSTREAM_REFUSED, None)),
)


def _told_of(error: Exception) -> Told:
    if isinstance(error, Missing) and error.is_remembered:
        return Result.NEGATIVE, Why.MISSING_LATELY, None
    if isinstance(error, Unavailable) and error.timed_out:
        return Result.ERROR, Why.UPSTREAM_SLOW, None
    found = (told for kind, told in _TOLD if isinstance(error, kind))
    return next(found, (Result.ERROR, Why.FAULT, None))


def _abort(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """Break the connection, so that no client takes what it has for the whole."""
    response.force_close()
    if request.transport is not None:
        request.transport.abort()
    return response
