"""What the certificate in `server.tls_certificate_file` says of names, and of who has signed it."""

from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from mirror.setup.view import Certificate


def read_authority(file: Path) -> str:
    """The certificates in a file, in PEM form, and nothing else that is there.

    Raises:
        ValueError, OSError: There are none.
    """
    found = _read_all(file)
    return "".join(it.public_bytes(Encoding.PEM).decode() for it in found)


def read_certificate(file: Path, authorities_file: Path | None) -> Certificate:
    """Read a certificate with its chain.

    Its authority is the chain's own root, or else in `authorities_file`: whoever signs the clients'
    certificates often signs the server's as well. Raises ValueError, OSError.
    """
    chain = _read_all(file)
    leaf, last = chain[0], chain[-1]
    known = [last, *([] if authorities_file is None else _read_all(authorities_file))]
    root = next((it for it in known if _has_signed(it, last)), None)
    return Certificate(
        names=tuple(_names(leaf)),
        issuer=last.issuer.rfc4514_string(),
        authority=None if root is None else root.public_bytes(Encoding.PEM).decode(),
    )


def _read_all(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError:
        raise ValueError(f"{file} holds no certificate in PEM form") from None


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    yield from (name.lower() for name in names.get_values_for_type(x509.DNSName))
    yield from map(str, names.get_values_for_type(x509.IPAddress))
