"""Docker's signed manifests (schema 1), as registries of old have them."""

import base64
import json
from dataclasses import dataclass

from tests.support.images import digest_of


@dataclass(frozen=True, slots=True)
class Signed:
    """A manifest as it travels, and the payload that its digest is of."""

    content: bytes
    payload: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.payload)


def signed(*layers: str, signatures: int = 1, **more: object) -> Signed:
    """As libtrust prints them: the signatures stand before the last brace."""
    document = {
        "schemaVersion": 1,
        "name": "library/old",
        "tag": "1",
        "fsLayers": [{"blobSum": layer} for layer in layers],
        "history": [{"v1Compatibility": "{\\u00e4}"} for _ in layers],
        **more,
    }
    payload = json.dumps(document, indent=3, ensure_ascii=False).encode()
    head, tail = payload[:-2], payload[-2:]
    protected = {"formatLength": len(head), "formatTail": _encoded(tail), "time": "2016-01-01"}
    signature = {"header": {"alg": "ES256"}, "signature": "AAAA", "protected": _encoded(protected)}
    written = json.dumps([signature] * signatures, indent=3).encode()
    return Signed(head + b',\n   "signatures": ' + written + tail, payload)


def _encoded(value: object) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
