"""The scripted registry, with the ways of a real one.

    async with NamedRegistry(QUAY, clock=clock) as registry: ...

Names of hosts are this machine's, so 127.0.0.1 and localhost are two hosts of one registry.
"""

import re
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote

from multidict import CIMultiDict

from tests.support.auth import BasicAuth, BearerAuth, user_of
from tests.support.delivery import Reply
from tests.support.faults import Asked
from tests.support.upstream import Cdn, ScriptedRegistry
from tests.support.ways import Ways

PRIVATE = "team/private"

_OF_CONTENT = {"manifest", "tag", "blob", "tags", "referrers"}
_HTML = b"<!DOCTYPE html><title>Not here</title><h1>Not here</h1>"


class _Tokens(BearerAuth):
    """A token server, and who has which token."""

    ways: Ways

    def challenge(self, asked: Asked, clock: Callable[[], float]) -> str | None:
        told = super().challenge(asked, clock)
        if told is not None and self.ways.challenged_scope is not None:
            return re.sub(r'scope="[^"]*"', f'scope="{self.ways.challenged_scope}"', told)
        return told

    def denies(self, scope: str, user: str) -> bool:
        """Whether this user may not have what the scope names."""
        return any(scope == f"repository:{name}:pull" and user not in users
                   for name, users in self.private.items())  # fmt: skip

    def is_known(self, asked: Asked, clock: Callable[[], float]) -> bool:
        """Whether this was asked with a token that is good, if not for this."""
        scheme, _, token = asked.headers.get("Authorization", "").partition(" ")
        return scheme == "Bearer" and clock() < self._grants.get(token, (0.0, "", ""))[0]


class _Passwords(BasicAuth):
    ways: Ways

    def challenge(self, asked: Asked, clock: Callable[[], float]) -> str | None:
        return super().challenge(asked, clock) and self.ways.challenge


class NamedRegistry(ScriptedRegistry):
    """A scripted registry with the ways of a real one."""

    def __init__(
        self,
        ways: Ways,
        *,
        clock: Callable[[], float],
        server_context: ssl.SSLContext | None = None,
    ) -> None:
        is_secure = ways.storage_on == "https"
        super().__init__(
            clock=clock,
            server_context=server_context,
            cdn_context=server_context if is_secure else None,
        )
        self.ways = ways
        self.has_referrers = ways.referrers == 200
        self.ignores_pagination = ways.paging == "none"
        users = {ways.user: ways.proof}
        private = {self.there(PRIVATE): {ways.user}}
        if ways.auth == "bearer":
            self.auth = _Tokens(
                users=users, private=private, service=ways.service,
                anonymous=not ways.needs_password, key=ways.tokens_as,
                omit_expires_in=not ways.expires_in,
            )  # fmt: skip
            self.auth.ways = ways
        elif ways.auth == "basic":
            self.auth = _Passwords(users=users)
            self.auth.ways = ways
        if ways.redirects_with:
            self.cdn = Cdn(status=ways.redirects_with, host="localhost")
        if ways.resets_token_server:
            self.fault(kind="token", drop=True, times=1)
        if ways.is_chunked:
            self.fault(where=lambda asked: asked.kind in _OF_CONTENT, chunked=True)
        if not ways.names_digests:
            self.fault(omit=("Docker-Content-Digest", "ETag"))

    def there(self, repository: str) -> str:
        """What it calls a repository of the upstream."""
        return f"{self.ways.prefix}/{repository}" if self.ways.prefix else repository

    async def start(self) -> None:
        await super().start()
        if isinstance(self.auth, BearerAuth):
            host = "localhost" if self.ways.token_server_elsewhere else "127.0.0.1"
            scheme = self.url.partition(":")[0]
            self.auth.realm = f"{scheme}://{host}:{self.port}{self.ways.tokens_at}"

    def limit(self) -> None:
        """From now on, it has had enough of manifests."""
        for kind in ("tag", "manifest"):
            self.fault(kind=kind, status=429, headers=self.ways.limited_fields)

    def expire(self) -> None:
        """The time of every token is over."""
        if isinstance(self.auth, BearerAuth):
            self.auth.revoke()

    def _reply(self, asked: Asked) -> Reply:
        if asked.path == self.ways.tokens_at:
            asked.kind, asked.repository = "token", ""
        if self.ways.leads_on and asked.kind in _OF_CONTENT:
            reply = self._led_on(asked)
        else:
            reply = self._by_its_ways(asked)
        reply.headers.update(self.ways.fields)
        if asked.kind in {"tag", "manifest"}:
            reply.headers.update(self.ways.manifest_fields)
        return reply

    def _led_on(self, asked: Asked) -> Reply:
        """registry.k8s.io holds nothing itself: blobs are in a bucket, the rest in a registry."""
        there = f"{self.ways.leads_on}/"
        if asked.kind == "blob" or asked.repository.startswith(there):
            asked.repository = asked.repository.removeprefix(there)
            return self._by_its_ways(asked)
        target = asked.target.replace("/v2/", f"/v2/{there}", 1)
        location = f"{self.url.replace('127.0.0.1', 'localhost')}{target}"
        return Reply(status=307, headers=CIMultiDict(Location=location))

    def _by_its_ways(self, asked: Asked) -> Reply:
        is_head_of_blob = (asked.kind, asked.method) == ("blob", "HEAD")
        if is_head_of_blob and self.ways.head_of_blob and self._is_let_in(asked):
            return self._refusal(self.ways.head_of_blob)
        if asked.kind == "cdn" and asked.method == "HEAD" and self.ways.storage_takes_get_only:
            return self._refusal(403)
        if asked.kind == "referrers" and self.ways.referrers != 200 and self._is_let_in(asked):
            return self._refusal(self.ways.referrers)
        return self._with_its_errors(asked, super()._reply(asked))

    def _is_let_in(self, asked: Asked) -> bool:
        return self.auth is None or self.auth.challenge(asked, self._clock) is None

    def _with_its_errors(self, asked: Asked, reply: Reply) -> Reply:
        match reply.status:
            case 401:
                return self._unauthorized(asked, reply)
            case 404 if asked.repository not in self.repositories and self.ways.missing_as_denied:
                return self._denial(asked)
            case 404:
                return self._dressed(reply)
            case _ if asked.kind in _OF_CONTENT and self._may_not(asked):
                return self._denial(asked)
            case _:
                return reply

    def _unauthorized(self, asked: Asked, reply: Reply) -> Reply:
        ways, auth = self.ways, self.auth
        if asked.kind == "token":
            return self._refusal(ways.refuses_with)
        if isinstance(auth, _Tokens):
            if auth.is_known(asked, self._clock):
                return self._denial(asked)
            if asked.headers.get("Authorization", "").startswith("Bearer "):
                if ways.over_with == "400":  # public.ecr.aws
                    return self._refusal(400)
                if ways.over_with == "bare 401":  # dhi.io
                    del reply.headers["WWW-Authenticate"]
        elif "Authorization" in asked.headers and ways.refuses_with != 401:  # ECR: 403
            return self._refusal(ways.refuses_with)
        return reply

    def _may_not(self, asked: Asked) -> bool:
        if not isinstance(self.auth, _Passwords):
            return False
        is_private = asked.repository == self.there("team/others")
        return is_private and bool(user_of(asked, self.auth.users))

    def _denial(self, asked: Asked) -> Reply:
        if self.ways.denies_with == "401":
            reply = self._refusal(401)
            assert self.auth is not None
            told = self.auth.challenge(asked, self._clock) or self.ways.challenge
            reply.headers["WWW-Authenticate"] = told
            return reply
        return self._refusal(403)

    def _refusal(self, status: int) -> Reply:
        code = {400: "UNSUPPORTED", 401: "UNAUTHORIZED", 403: "DENIED"}.get(status, "UNSUPPORTED")
        body = b'{"errors":[{"code":"%s","message":"refused"}]}' % code.encode()
        headers = CIMultiDict({"Content-Type": "application/json"})
        return self._dressed(Reply(status=status, headers=headers, body=body))

    def _dressed(self, reply: Reply) -> Reply:
        """The same, with the body that it sends with errors."""
        match self.ways.errors:
            case "html":
                reply.headers["Content-Type"], reply.body = "text/html", _HTML
            case "statuses":  # Artifactory
                reply.body = b'{"errors":[{"status":%d,"message":"not here"}]}' % reply.status
            case _:
                pass
        return reply

    def _token(self, asked: Asked) -> Reply:
        auth = self.auth
        if isinstance(auth, _Tokens) and self.ways.denies_with == "token 403":
            user = user_of(asked, auth.users)
            [scope] = parse_qs(asked.query).get("scope", [""])
            name = scope.removeprefix("repository:").removesuffix(":pull")
            is_there = not scope or name in self.repositories
            if user is not None and (auth.denies(scope, user) or not is_there):
                return self._refusal(403)
        return super()._token(asked)

    def _tags(self, asked: Asked, here: Any) -> Reply:
        reply = super()._tags(asked, here)
        link = reply.headers.get("Link", "")
        match self.ways.paging:
            case "token" if link or "next_page" in asked.query:
                return self._tags_by_token(asked, here)
            case "absolute" if link:
                reply.headers["Link"] = link.replace("</v2/", f"<{self.url}/v2/")
            case _:
                pass
        if self.ways.beside_tags:
            assert isinstance(reply.body, bytes)
            extra = repr(dict(self.ways.beside_tags)).replace("'", '"').encode()
            reply.body = extra[:-1] + b"," + reply.body[1:]
        return reply

    def _tags_by_token(self, asked: Asked, here: Any) -> Reply:
        """Quay knows no `last`: what follows is behind a mark of its own."""
        query = dict(parse_qsl(asked.query))
        before = [tag for tag in sorted(here.tags) if tag <= query.get("next_page", "")[:-2]]
        rest = partial(super()._tags, here=here)
        asked.query = f"n={query.get('n', 2)}&last={quote(before[-1]) if before else ''}"
        reply = rest(asked)
        match = re.search(r"last=([^&]*)&n=(\d+)", reply.headers.get("Link", ""))
        if match:
            target = f"/v2/{asked.repository}/tags/list?n={match[2]}&next_page={match[1]}%3D%3D"
            reply.headers["Link"] = f'<{target}>; rel="next"'
        return reply
