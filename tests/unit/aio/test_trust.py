"""Whom TLS trusts."""

import ssl
from contextlib import suppress
from pathlib import Path

from mirror.aio.trust import trust, trust_the_systems
from tests.support.tls import Authority


def test_certificates_are_held_to_no_more_than_docker_holds_them_to(tmp_path: Path) -> None:
    """From Python 3.13 on, they would be."""
    authority = Authority(tmp_path)
    for context in (trust(authority.ca_file), trust(None), trust_the_systems()):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT


def test_a_server_that_speaks_more_is_told_what_is_spoken(tmp_path: Path) -> None:
    server_context = Authority(tmp_path).server_context()
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust_the_systems().wrap_bio(to_client, to_server, server_hostname="localhost")
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert server.selected_alpn_protocol() == "http/1.1"
