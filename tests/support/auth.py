"""How registries ask who is there: Docker's token service, and plain passwords."""

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs

from tests.support.faults import Asked

ACR_SERVICE = "registry.aliyuncs.com:cn-hangzhou:26842"
"""Alibaba's service names contain colons."""


@dataclass(slots=True, kw_only=True)
class BearerAuth:
    """A token service, as Docker Hub's and ACR's; `clock` decides when its tokens are over.

    Anonymous clients get tokens unless `anonymous` is false. A repository in `private` is open only
    to its users; anyone else gets a token that does not help, as at Docker Hub. Only `pushers` may
    push (None: every user that has a name); others get a token that is good for pulls.
    """

    users: Mapping[str, str] = field(default_factory=dict)  # name: password
    private: Mapping[str, set[str]] = field(default_factory=dict)  # repository: names
    pushers: set[str] | None = None
    anonymous: bool = True
    service: str = "registry.test"
    realm: str = ""  # its URL: a registry's own /token, or that of one that has the same `auth`
    life: int = 300  # seconds
    omit_expires_in: bool = False
    key: Literal["token", "access_token", "both"] = "token"

    _grants: dict[str, tuple[float, str, set[str]]] = field(default_factory=dict)
    issued: int = 0  # tokens, so far

    def challenge(self, asked: Asked, clock: Callable[[], float]) -> str | None:
        """The `WWW-Authenticate` that this request is answered with; None: let it in."""
        scheme, _, token = asked.headers.get("Authorization", "").partition(" ")
        expires_at, user, granted = self._grants.get(token, (0.0, "", set()))
        wanted = _wanted(asked)
        problem = ""
        if scheme == "Bearer":
            if clock() >= expires_at:
                problem = "invalid_token"
            elif _single(wanted) <= granted and self._may(user, asked.repository):
                return None
            else:
                problem = "insufficient_scope"
        fields = {
            "realm": self.realm,
            "service": self.service,
            "scope": " ".join(wanted),
            "error": problem,
        }
        return "Bearer " + ",".join(f'{key}="{value}"' for key, value in fields.items() if value)

    def issue(self, asked: Asked, clock: Callable[[], float]) -> bytes | None:
        """The token service's answer; None: wrong or missing credentials."""
        user = user_of(asked, self.users)
        if user is None or (not user and not self.anonymous):
            return None
        query = parse_qs(asked.query)
        if query.get("service") != [self.service]:
            return None
        self.issued += 1
        token = f"token-{self.issued}-{user or 'anonymous'}"
        asked_for = [scope for text in query.get("scope", ()) for scope in text.split()]
        may_push = user in self.pushers if self.pushers is not None else bool(user)
        granted = {it for it in _single(asked_for) if may_push or not it.endswith(":push")}
        self._grants[token] = (clock() + self.life, user, granted)
        answer: dict[str, str | int] = {
            key: token for key in ("token", "access_token") if self.key in {key, "both"}
        }
        if not self.omit_expires_in:
            answer["expires_in"] = self.life
        return json.dumps(answer).encode()

    def revoke(self) -> None:
        """Forget every token, before its time."""
        self._grants.clear()

    def _may(self, user: str, repository: str) -> bool:
        return repository not in self.private or user in self.private[repository]


def _wanted(asked: Asked) -> list[str]:
    """The scopes that a request takes, as distribution has them."""
    if not asked.repository:
        return []
    actions = "pull,push" if asked.is_push else "pull"
    source = parse_qs(asked.query).get("from") if asked.kind == "upload" else None
    wanted = [f"repository:{asked.repository}:{actions}"]
    return wanted + [f"repository:{name}:pull" for name in source or ()]


def _single(scopes: Iterable[str]) -> set[str]:
    """Each with one action only."""
    parts = (scope.rpartition(":") for scope in scopes)
    return {f"{name}:{action}" for name, _, actions in parts for action in actions.split(",")}


@dataclass(slots=True, kw_only=True)
class BasicAuth:
    """A registry behind plain passwords."""

    users: Mapping[str, str]

    def challenge(self, asked: Asked, _clock: Callable[[], float]) -> str | None:
        return None if user_of(asked, self.users) else 'Basic realm="registry"'

    def issue(self, _asked: Asked, _clock: Callable[[], float]) -> bytes | None:
        return None


def user_of(asked: Asked, users: Mapping[str, str]) -> str | None:
    """Who asks, by the Basic credentials; "" is nobody in particular, None a wrong password."""
    scheme, _, credentials = asked.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return user if users.get(user) == password else None
