"""What an image consists of, as far as it is on record; nobody is asked."""

from mirror.oci.digest import Digest
from mirror.oci.reference import Reference, Repository, Tag
from mirror.records.ports import Records


async def list_content(
    records: Records, repository: Repository, reference: Reference
) -> list[Digest]:
    """The digests of all that a tag or a manifest leads to, itself first; empty: it is unknown.

    Raises:
        StoreError: The records cannot be read.
    """
    if isinstance(reference, Tag):
        record = await records.find_tag(repository, reference.name)
        if record is None:
            return []
        reference = record.digest
    found, waiting = dict.fromkeys([reference]), [reference]
    while waiting:
        for child in await records.list_children(waiting.pop()):
            if child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)
