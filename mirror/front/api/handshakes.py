"""Why no TLS has come about, in words for whoever reads the log.

The statuses are nginx's: a request that never was is counted beside those that were.
"""

import ssl

_BAD_CERTIFICATE = 495
_NO_CERTIFICATE = 496
_NO_TLS = 497
_OTHER = 400

_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": (
        _NO_CERTIFICATE,
        "it has shown no certificate, and server.client_ca_file lets nobody in without one",
    ),
    "HTTP_REQUEST": (_NO_TLS, "it speaks plain HTTP, and server.tls_certificate_file means TLS"),
}


def explain(error: ssl.SSLError) -> tuple[int, str]:
    """The status that counts it, and what to tell."""
    if isinstance(error, ssl.SSLCertVerificationError):
        told = f"its certificate does not do for server.client_ca_file: {error.verify_message}"
        return _BAD_CERTIFICATE, told
    reason = error.reason or "UNKNOWN"
    said = reason.replace("_", " ").lower()
    return _REASONS.get(reason, (_OTHER, f"no TLS has come about: {said}"))
