"""When certificates end, for those who have to renew them."""

from contextlib import suppress
from pathlib import Path

from mirror.aio.lives import Life
from mirror.config import Server


def find_lives(server: Server) -> dict[str, Life]:
    """By the setting that names the file, how long the first of its certificates lives that ends.

    What cannot be read is left out: it is told elsewhere.
    """
    settings = ("tls_certificate_file", "client_ca_file")
    files = {name: getattr(server, name) for name in settings if getattr(server, name) is not None}
    found = {}
    for name, file in files.items():
        with suppress(OSError, ValueError):
            found[name] = _first_to_end(file)
    return found


def _first_to_end(file: Path) -> Life:
    # A mirror without certificates starts without the library that reads them.
    from cryptography import x509  # noqa: PLC0415

    certificates = x509.load_pem_x509_certificates(file.read_bytes())
    first = min(certificates, key=lambda it: it.not_valid_after_utc)
    return Life(first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp())
