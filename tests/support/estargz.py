"""eStargz layers, and a client that pulls them lazily, as stargz-snapshotter does.

The format: containerd/stargz-snapshotter, docs/estargz.md. A layer is a tar of gzip members, one
for each chunk; the last but one holds the table of contents, the last says where that begins.
"""

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping
from typing import Any

from tests.support.client import Client

FOOTER = 51  # bytes
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
_TOC = "stargz.index.json"
_BLOCK = 512


def layer(files: Mapping[str, bytes], *, chunk_size: int) -> tuple[bytes, str]:
    """A layer of these files, and the digest of its table of contents."""
    blob, entries = bytearray(), list[dict[str, Any]]()
    for name, content in files.items():
        for start in range(0, max(1, len(content)), chunk_size):
            chunk = content[start : start + chunk_size]
            entry = {
                "name": name,
                "type": "chunk" if start else "reg",
                "size": len(content),
                "chunkOffset": start,
                "chunkSize": len(chunk),
                "chunkDigest": _digest(chunk),
            }
            if not start:
                blob += gzip.compress(_header(name, len(content)), mtime=0)
            entries.append(entry | {"offset": len(blob)})
            is_last = start + chunk_size >= len(content)
            padding = bytes(-len(content) % _BLOCK) if is_last else b""
            blob += gzip.compress(chunk + padding, compresslevel=0, mtime=0)
    toc = json.dumps({"version": 1, "entries": entries}).encode()
    member = _header(_TOC, len(toc)) + toc + bytes(-len(toc) % _BLOCK) + bytes(2 * _BLOCK)
    toc_offset = len(blob)
    blob += gzip.compress(member, mtime=0) + _footer(toc_offset)
    return bytes(blob), _digest(toc)


class LazyReader:
    """Reads files of a layer by ranges; whatever it takes is proved by the table of contents."""

    def __init__(self, client: Client, target: str, size: int, toc_digest: str) -> None:
        self._client = client
        self._target = target
        self._size = size
        self._toc_digest = toc_digest
        self._toc_offset = 0
        self._entries: list[dict[str, Any]] = []

    async def open(self) -> None:
        """Read the footer, and what it leads to."""
        footer = await self._range(self._size - FOOTER, self._size)
        self._toc_offset = _toc_offset(footer)
        member = await self._range(self._toc_offset, self._size - FOOTER)
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(member))) as archive:
            inside = archive.extractfile(_TOC)
            assert inside is not None
            toc = inside.read()
        assert _digest(toc) == self._toc_digest, "this is not the table of contents"
        self._entries = json.loads(toc)["entries"]

    async def read(self, name: str) -> bytes:
        """One file, chunk by chunk."""
        content = b""
        offsets = [entry["offset"] for entry in self._entries] + [self._toc_offset]
        for entry, following in zip(self._entries, offsets[1:], strict=True):
            if entry["name"] != name:
                continue
            compressed = await self._range(entry["offset"], following)
            chunk = zlib.decompressobj(31).decompress(compressed)[: entry["chunkSize"]]
            assert _digest(chunk) == entry["chunkDigest"], "this is not the chunk"
            content += chunk
        return content

    async def _range(self, start: int, stop: int) -> bytes:
        answer = await self._client.get(
            self._target,
            headers={"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"},
        )
        assert answer.status == 206
        assert len(answer.body) == stop - start
        return answer.body


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def _footer(toc_offset: int) -> bytes:
    """An empty gzip member with the offset in its extra field, of subfield "SG"."""
    told = f"{toc_offset:016x}STARGZ".encode()
    extra = b"SG" + struct.pack("<H", len(told)) + told
    head = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff" + struct.pack("<H", len(extra)) + extra
    return head + b"\x01\x00\x00\xff\xff" + bytes(8)


def _toc_offset(footer: bytes) -> int:
    assert len(footer) == FOOTER
    assert footer[12:14] == b"SG"
    assert footer[32:38] == b"STARGZ"
    return int(footer[16:32], 16)
