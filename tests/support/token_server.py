"""A token server for a real registry (distribution, spec/auth/jwt.md), with the ways of known ones.

async with running_token_server(directory, HUB, {"anna": "secret"}) as tokens:
    async with running_registry(directory / "registry", auth=tokens.settings) as registry: ...

Whoever has a name here may push below it (`anna/...`), and everybody may pull.
"""

import base64
import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.auth import ACR_SERVICE

_ISSUER = "token server"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWays:
    """How one hands out tokens; it is always on another host than its registry."""

    service: str
    path: str
    life: int  # seconds

    def __str__(self) -> str:
        return self.service.partition(":")[0]


HUB = TokenWays(service="registry.docker.io", path="/token", life=300)
ACR = TokenWays(service=ACR_SERVICE, path="/auth", life=600)


@dataclass(slots=True)
class TokenServer:
    """One that runs; `asked` are the scopes that it was asked for, with who has."""

    ways: TokenWays
    users: Mapping[str, str]
    certificate: Path
    key: rsa.RSAPrivateKey
    chain: str
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    port: int = 0

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def settings(self) -> dict[str, Any]:
        """What a registry has to know of it."""
        return {
            "token": {
                "realm": f"http://{self.host}{self.ways.path}",
                "service": self.ways.service,
                "issuer": _ISSUER,
                "rootcertbundle": str(self.certificate),
            }
        }

    async def answer(self, request: web.Request) -> web.Response:
        """Hand out a token for as much as somebody may do, which may be nothing."""
        form = dict(await request.post()) if request.method == "POST" else {}
        name = self._name(request, form)
        wanted = form or request.query
        if name is None or wanted.get("service") != self.ways.service:
            return web.json_response({"details": "incorrect username or password"}, status=401)
        texts = [str(form["scope"])] if "scope" in form else request.query.getall("scope", [])
        scopes = [scope for text in texts for scope in text.split()]
        self.asked.append((name, scopes))
        token = self.token_for(name, scopes)
        told = {"token": token, "access_token": token, "expires_in": self.ways.life}
        return web.json_response(told)

    def token_for(self, name: str, scopes: Iterable[str]) -> str:
        """A token for as much of these as somebody may do."""
        access = [granted for scope in scopes if (granted := _granted(scope, name))["actions"]]
        return self._sign(name, access)

    def _name(self, request: web.Request, form: Mapping[str, Any]) -> str | None:
        """Who asks; "" is nobody in particular, None somebody with a wrong password."""
        name, password = str(form.get("username", "")), str(form.get("password", ""))
        if (header := request.headers.get("Authorization", "")).startswith("Basic "):
            name, _, password = base64.b64decode(header[6:]).decode().partition(":")
        return name if not name or self.users.get(name) == password else None

    def _sign(self, name: str, access: Iterable[Mapping[str, Any]]) -> str:
        now = int(time.time())  # noqa: TID251 - the registry has a clock of its own
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self.chain]}
        claims = {
            "iss": _ISSUER, "sub": name, "aud": self.ways.service, "jti": str(len(self.asked)),
            "iat": now, "nbf": now - 10, "exp": now + self.ways.life, "access": list(access),
        }  # fmt: skip
        signed = f"{_base64url(_json(header))}.{_base64url(_json(claims))}"
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), SHA256())
        return f"{signed}.{_base64url(signature)}"


@asynccontextmanager
async def running_token_server(
    directory: Path, ways: TokenWays, users: Mapping[str, str]
) -> AsyncIterator[TokenServer]:
    """Run one."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = _certificate(key)
    file = directory / "tokens.pem"
    _write(file, certificate.public_bytes(Encoding.PEM))
    chain = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
    server = TokenServer(ways, users, file, key, chain)
    application = web.Application()
    application.router.add_route("*", ways.path, server.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _granted(scope: str, name: str) -> dict[str, Any]:
    whole, _, actions = scope.rpartition(":")
    kind, _, repository = whole.partition(":")
    may_push = bool(name) and repository.startswith(f"{name}/")
    allowed = {"pull", "push"} if may_push else {"pull"}
    return {
        "type": kind,
        "name": repository,
        "actions": [action for action in actions.split(",") if action in allowed],
    }


def _certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ISSUER)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
