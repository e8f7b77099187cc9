"""Opens the files that a configuration names: certificates, authorities, passwords."""

import datetime as dt
import ssl
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from mirror.aio.lives import Life
from mirror.aio.trust import trust
from mirror.config import Config, Endpoint, Notify, Server
from mirror.doctor.finding import Finding
from mirror.front.api.passwords import read_htpasswd
from mirror.front.settings import UnusableFile

_SOON = 21  # days: time enough to renew a certificate by hand


def look_at_files(config: Config, *, now: dt.datetime) -> Iterator[Finding]:
    """What is wrong with them, and what soon will be."""
    yield from _server(config.server, now)
    if config.admin.token_file is not None:
        yield from _secret(config.admin.token_file, "admin.token_file")
    if config.admin.htpasswd_file is not None:
        yield from _passwords(config.admin.htpasswd_file, "admin.htpasswd_file")
    for number, hook in enumerate(config.notify):
        yield from _hook(hook, f"notify[{number}]", now)
    for name, upstream in config.upstream.items():
        for number, endpoint in enumerate(upstream.endpoints):
            yield from _endpoint(endpoint, f'upstream."{name}".endpoints[{number}]', now)


def _server(server: Server, now: dt.datetime) -> Iterator[Finding]:
    if server.tls_certificate_file is not None and server.tls_private_key_file is not None:
        yield from _pair(server.tls_certificate_file, server.tls_private_key_file)
        yield from _lives(server.tls_certificate_file, "server.tls_certificate_file", now)
    if server.client_ca_file is not None:
        yield from _authorities(server.client_ca_file, "server.client_ca_file", now)
    if server.htpasswd_file is not None:
        yield from _passwords(server.htpasswd_file, "server.htpasswd_file")


def _passwords(file: Path, where: str) -> Iterator[Finding]:
    try:
        if not read_htpasswd(file):
            yield Finding("warning", where, "names nobody: nobody is let in")
    except UnusableFile as error:
        for problem in error.problems:
            yield Finding("error", where, problem)


def _endpoint(endpoint: Endpoint, where: str, now: dt.datetime) -> Iterator[Finding]:
    if endpoint.ca_file is not None:
        yield from _authorities(endpoint.ca_file, f"{where}.ca_file", now)
    for file, setting in (
        (endpoint.password_file, "password_file"),
        (endpoint.proxy_password_file, "proxy_password_file"),
    ):
        if file is not None:
            yield from _secret(file, f"{where}.{setting}")


def _hook(hook: Notify, where: str, now: dt.datetime) -> Iterator[Finding]:
    for setting, read in (("url_file", hook.read_address), ("header_file", hook.read_headers)):
        try:
            read()
        except (OSError, ValueError) as error:
            yield Finding("error", f"{where}.{setting}", str(error))
    if hook.ca_file is not None:
        yield from _authorities(hook.ca_file, f"{where}.ca_file", now)


def _secret(file: Path, where: str) -> Iterator[Finding]:
    try:
        content = file.read_bytes()
    except OSError as error:
        yield Finding("error", where, f"cannot be read: {error.strerror}")
        return
    if not content.strip():
        yield Finding("error", where, "is empty; it holds one line")
    elif len(content.strip().splitlines()) > 1:
        text = "has several lines; a secret is one, and they would all be taken for it"
        yield Finding("warning", where, text)


def _pair(certificate: Path, key: Path) -> Iterator[Finding]:
    where = "server.tls_private_key_file"

    def passphrase() -> str:
        raise ValueError("is encrypted, and nobody is there to be asked; decrypt it with openssl")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, passphrase)
    except ValueError as error:
        yield Finding("error", where, str(error))
    except ssl.SSLError as error:
        is_mismatch = error.reason == "KEY_VALUES_MISMATCH"
        text = (
            "is not the key of server.tls_certificate_file"
            if is_mismatch
            else "is, with the certificate, no pair in PEM form"
        )
        yield Finding("error", where, text)
    except OSError as error:
        yield Finding("error", where, f"cannot be read: {error.strerror}")


def _authorities(file: Path, where: str, now: dt.datetime) -> Iterator[Finding]:
    try:
        trust(file)
    except (ssl.SSLError, OSError):
        yield Finding("error", where, "holds no certificate in PEM form")
        return
    yield from _lives(file, where, now)


def _lives(file: Path, where: str, now: dt.datetime) -> Iterator[Finding]:
    """How long the certificates in a file are good for."""
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except (ValueError, OSError):
        yield Finding("error", where, "holds no certificate in PEM form")
        return
    for certificate in certificates:
        name = certificate.subject.rfc4514_string() or "a certificate without a name"
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        life = Life(begins.timestamp(), ends.timestamp())
        if now >= ends:
            yield Finding(
                "error", where, f"{name} is over since {ends:%Y-%m-%d %H:%M} UTC: renew it"
            )
        elif now < begins:
            text = f"{name} begins at {begins:%Y-%m-%d %H:%M} UTC: is the clock right?"
            yield Finding("error", where, text)
        elif life.is_nearly_over(now.timestamp(), days=_SOON):
            yield Finding("warning", where, f"{name} ends at {ends:%Y-%m-%d %H:%M} UTC: renew it")
