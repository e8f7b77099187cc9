"""Lists of what refers to a digest, as registries send them (spec, "Listing Referrers"). Pure.

A list is an index. Its entries stay as upstream wrote them, byte for byte, whatever is made of the
list: they carry annotations that are nobody's business here.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct, field

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import ErrorCode, RegistryError


class _Entry(Struct):
    """What is read of an entry."""

    digest: str
    artifact_type: str | None = field(default=None, name="artifactType")
    media_type: object = field(default=None, name="mediaType")  # of another type, it says nothing


class Referrer(NamedTuple):
    """A manifest that refers to something, and what the list calls its type."""

    digest: Digest
    media_type: str


_document = msgspec.json.Decoder(dict[str, Raw])
_entries = msgspec.json.Decoder(list[Raw] | None)
_entry = msgspec.json.Decoder(_Entry)


def merge_referrers(pages: Iterable[bytes]) -> bytes:
    """One list of all pages; a single one stays as it came.

    Raises:
        RegistryError: `MANIFEST_INVALID`: one of them is no list of referrers.
    """
    pages = list(pages)
    read = [_read(page) for page in pages]
    if len(pages) == 1:
        return pages[0]
    return _written(read[0][0], [raw for _, found in read for raw, _ in found])


def filter_referrers(content: bytes, artifact_type: str) -> bytes:
    """The list of those of `content` that are of this type.

    Raises:
        RegistryError: `MANIFEST_INVALID`: that is no list of referrers.
    """
    document, found = _read(content)
    return _written(document, [raw for raw, entry in found if entry.artifact_type == artifact_type])


def list_referrers(content: bytes) -> list[Referrer]:
    """What a list names, without what is called by an algorithm that is not known here.

    Raises:
        RegistryError: `MANIFEST_INVALID`: that is no list of referrers.
    """
    found: list[Referrer] = []
    for _, entry in _read(content)[1]:
        with suppress(RegistryError):
            kind = entry.media_type if isinstance(entry.media_type, str) else ""
            found.append(Referrer(parse_digest(entry.digest), kind))
    return found


def keep_referrers(content: bytes, digests: Collection[Digest]) -> bytes:
    """The list of those of `content` that are one of these; the same bytes, where all are.

    Raises:
        RegistryError: `MANIFEST_INVALID`: that is no list of referrers.
    """
    document, found = _read(content)
    kept = {str(digest) for digest in digests}
    entries = [raw for raw, entry in found if entry.digest in kept]
    return content if len(entries) == len(found) else _written(document, entries)


def add_referrers(content: bytes, more: bytes) -> bytes:
    """The list of `content`, and of those of `more` that are not in it; else the same bytes.

    Raises:
        RegistryError: `MANIFEST_INVALID`: one of them is no list of referrers.
    """
    document, found = _read(content)
    known = {entry.digest for _, entry in found}
    added = [raw for raw, entry in _read(more)[1] if entry.digest not in known]
    return _written(document, [*(raw for raw, _ in found), *added]) if added else content


def _read(content: bytes) -> tuple[dict[str, Raw], list[tuple[Raw, _Entry]]]:
    try:
        document = _document.decode(content)
        found = _entries.decode(document["manifests"]) or []  # Go writes null for none
        return document, [(raw, _entry.decode(raw)) for raw in found]
    except (msgspec.MsgspecError, KeyError, RecursionError, ValueError) as error:
        raise RegistryError(ErrorCode.MANIFEST_INVALID, "not a list of referrers") from error


def _written(document: dict[str, Raw], entries: list[Raw]) -> bytes:
    return msgspec.json.encode({**document, "manifests": entries})
