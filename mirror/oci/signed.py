"""Docker's signed manifests (schema 1): what the digest of one is of. Pure.

The digest is not of the bytes that travel but of the payload that was signed: the document without
its `signatures` (distribution, docs/spec/deprecated-schema-v1.md; libtrust, ParsePrettySignature).
Each signature says in its protected header how many bytes of the document come before them, and
what follows.
"""

import base64
import json

SIGNED_MANIFEST = "application/vnd.docker.distribution.manifest.v1+prettyjws"

_MOST_SIGNATURES = 8  # that are read
_SIGNATURES = b'"signatures"'


def payload_of(content: bytes) -> bytes | None:
    """What was signed; None where `content` is no signed manifest, or its signatures disagree."""
    if _SIGNATURES not in content:
        return None  # the common case is cheap
    try:
        document = json.loads(content)
        signatures = document.pop("signatures")[:_MOST_SIGNATURES]
        [(length, tail)] = {_format(signature) for signature in signatures}
        payload = content[:length] + tail
        # Only what is in the payload is proved: nothing else may be shown beside it.
        return payload if json.loads(payload) == document else None
    except (AttributeError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _format(signature: dict[str, str]) -> tuple[int, bytes]:
    """How many bytes come before the signatures, and what follows them."""
    protected = json.loads(_decoded(signature["protected"]))
    length = protected["formatLength"]
    if type(length) is not int or length <= 0:
        raise ValueError("no length of a part of the document")
    return length, _decoded(protected["formatTail"])


def _decoded(text: str) -> bytes:
    """Base64 for URLs, without the padding (RFC 7515, 2)."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
