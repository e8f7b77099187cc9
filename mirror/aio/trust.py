"""Whom TLS trusts, the same with every version of Python.

From 3.13 on, Python wants what RFC 5280 says of the form of certificates, too (VERIFY_X509_STRICT):
one that a private authority has issued without naming its key would be trusted by docker, curl
and Go, and by a mirror with Python 3.12, and not by this one.
"""

import functools
import ssl
from pathlib import Path


def trust(
    authorities: Path | None, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH
) -> ssl.SSLContext:
    """What verifies by these authorities; None: by the system's. Reads files.

    Raises:
        OSError: The file cannot be read, or holds no certificate (ssl.SSLError).
    """
    context = ssl.create_default_context(purpose, cafile=authorities)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@functools.cache
def trust_the_systems() -> ssl.SSLContext:
    """The same for all HTTP that goes by the system's authorities: there are a few hundred of them.

    It says that it speaks HTTP/1.1 (ALPN, RFC 7301), as the library's own does.
    """
    context = trust(None)
    context.set_alpn_protocols(["http/1.1"])
    return context
