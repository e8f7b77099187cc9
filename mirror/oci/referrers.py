"""Lists of what refers to a digest, as registries send them (spec, "Listing Referrers"). Pure.

A list is an index. Its entries stay as upstream wrote them, byte for byte, whatever is made of the
list: they carry annotations that are nobody's business here.
"""

from collections.abc import Iterable

import msgspec
from msgspec import Raw, Struct, field

from mirror.oci.errors import ErrorCode, RegistryError


class _Entry(Struct):
    """What is read of an entry."""

    digest: str
    artifact_type: str | None = field(default=None, name="artifactType")


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


def _read(content: bytes) -> tuple[dict[str, Raw], list[tuple[Raw, _Entry]]]:
    try:
        document = _document.decode(content)
        found = _entries.decode(document["manifests"]) or []  # Go writes null for none
        return document, [(raw, _entry.decode(raw)) for raw in found]
    except (msgspec.MsgspecError, KeyError, RecursionError, ValueError) as error:
        raise RegistryError(ErrorCode.MANIFEST_INVALID, "not a list of referrers") from error


def _written(document: dict[str, Raw], entries: list[Raw]) -> bytes:
    return msgspec.json.encode({**document, "manifests": entries})
