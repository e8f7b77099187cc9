"""The heads of registries' responses, made regular before a strict parser sees them. Pure.

What Go's HTTP client takes from a registry, dockerd and containerd take, and so must a mirror:

    the same Content-Length twice            one of them (RFC 9110, 8.6)
    Content-Length beside Transfer-Encoding  the latter counts (RFC 9112, 6.3)
    a space before the colon                 is removed (RFC 9112, 5.1)
    a space within a field's name            the field is left out
    100 Continue, 103 Early Hints            are skipped, but not without end

Beyond these bounds it is no answer:
"""

LONGEST_HEAD = 2**18
"""Bytes; Artifact Registry has been seen to send 21 KiB."""

LONGEST_FIELD = 2**16
"""Bytes, of a status line or a field."""

MOST_FIELDS = 1000

_MOST_INTERIM = 8  # responses before the one that counts (RFC 9110, 15.2); Go takes 5
_SWITCHING = b"101"
_LENGTH = b"content-length"


class ResponseHead:
    """The head of one response, as it comes in."""

    def __init__(self) -> None:
        self._gathered = bytearray()
        self._interim = 0

    def feed(self, data: bytes) -> bytes:
        """Empty until the head is whole; then the head, made regular, and what came after it.

        Raises:
            ValueError: It is beyond bounds, or says two things at once.
        """
        searched = max(0, len(self._gathered) - 3)
        self._gathered += data
        while (end := _end(self._gathered, searched)) >= 0:
            head, rest = bytes(self._gathered[:end]), bytes(self._gathered[end:])
            if not _is_interim(head):
                return _regular(head) + rest
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise ValueError("more interim responses than anybody sends")
            self._gathered, searched = bytearray(rest), 0
        if len(self._gathered) > LONGEST_HEAD:
            raise ValueError("a head that is longer than anybody sends")
        return b""


def _end(gathered: bytearray, start: int) -> int:
    """Where the head ends; negative while it does not."""
    ends = [
        found + len(mark)
        for mark in (b"\r\n\r\n", b"\n\n")
        if (found := gathered.find(mark, start)) >= 0
    ]
    return min(ends, default=-1)


def _is_interim(head: bytes) -> bool:
    status = head.partition(b"\n")[0].split(b" ", 2)[1:2]
    return bool(status) and status[0][:1] == b"1" and status[0][:3] != _SWITCHING


def _regular(head: bytes) -> bytes:
    if len(head) > LONGEST_HEAD:
        raise ValueError("a head that is longer than anybody sends")
    lines = head.split(b"\n")
    fields = [line.partition(b":") for line in lines[1:]]
    # A line without a colon, or one that begins with a space, continues the one before (RFC 9112,
    # 5.2); the parser knows what to do with it.
    names = [name.rstrip(b" \t").lower() if name[:1] > b" " else b"" for name, _, _ in fields]
    is_chunked = b"transfer-encoding" in names
    lengths = {
        part.strip()
        for name, (_, _, value) in zip(names, fields, strict=True)
        if name == _LENGTH
        for part in value.split(b",")
    }
    if len(lengths) > 1 and not is_chunked:
        raise ValueError("two lengths of one body")
    kept = [lines[0]]
    for line, name, (written, colon, value) in zip(lines[1:], names, fields, strict=True):
        if name == _LENGTH:
            if is_chunked or not lengths:
                continue
            kept.append(b"Content-Length: " + lengths.pop() + b"\r")
        elif b" " in name:
            continue
        elif name and colon:
            kept.append(written.rstrip(b" \t") + colon + value)
        else:
            kept.append(line)
    return b"\n".join(kept)
