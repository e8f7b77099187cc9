"""Bodies that come encoded although identity was asked for (RFC 9110, 8.4). Pure.

Whoever sends them does as Go's client wants it, which asks for gzip. It is done for what is read
whole; of a blob, the digest says what its bytes are, and `Content-Encoding` is often the label that
its layer was uploaded with.
"""

import zlib
from collections.abc import Iterator

PIECE = 2**20
"""Bytes that are decoded at a time; a bomb is noticed after the first of them."""

_ZLIB = frozenset({"gzip", "x-gzip", "deflate"})
_EITHER = 32 + zlib.MAX_WBITS  # by their first bytes
_FIRST = (b"\x1f\x8b", b"\x78")


class Decoder:
    """Decodes the body of a response with this `Content-Encoding`; what it is not stays as it is.

    Raises:
        ValueError: It is broken, or ends too early.
    """

    def __init__(self, encoding: str | None) -> None:
        is_known = (encoding or "").strip().lower() in _ZLIB
        self._inflate = zlib.decompressobj(_EITHER) if is_known else None
        self._has_begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes stand for, in pieces."""
        if self._inflate is not None and not self._has_begun and data:
            self._has_begun = True
            if not data.startswith(_FIRST):  # labelled, and not encoded
                self._inflate = None
        if self._inflate is None:
            yield data
            return
        try:
            while data and not self._inflate.eof:
                yield self._inflate.decompress(data, PIECE)
                data = self._inflate.unconsumed_tail
        except zlib.error as error:
            raise ValueError("not what its Content-Encoding says") from error

    def end(self) -> bytes:
        """The rest, once all has been fed."""
        if self._inflate is None or not self._has_begun:
            return b""
        try:
            rest = self._inflate.flush()
        except zlib.error as error:
            raise ValueError("not what its Content-Encoding says") from error
        if not self._inflate.eof:
            raise ValueError("cut off, as its Content-Encoding shows")
        return rest
