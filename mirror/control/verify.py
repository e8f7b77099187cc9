"""Verifying: blobs are hashed because somebody asks, here or in a mirror that runs.

What happens is told in steps: what there is to do, each blob with what was found, each name that
means nothing here, and what has kept it from going on. Over the admin port (`/api/v1/verify`) they
are lines of JSON.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

from msgspec import Struct

from mirror.oci.digest import Digest, parse_digest
from mirror.oci.errors import RegistryError, StoreError
from mirror.oci.image import Aliases, parse_image
from mirror.oci.manifest import MAX_SIZE, parse_references
from mirror.pull.content import list_content
from mirror.records.ports import Records
from mirror.storage.damage import Finding
from mirror.storage.store import LocalStorage


class Total(Struct, frozen=True, tag="total", tag_field="step"):
    """What there is to do: so many blobs, of so many bytes."""

    blobs: int
    bytes: int


class Checked(Struct, frozen=True, tag="checked", tag_field="step"):
    """A blob was looked at; `size` in bytes."""

    digest: str
    size: int
    finding: Finding


class Unknown(Struct, frozen=True, tag="unknown", tag_field="step"):
    """A digest, or an image, of which nothing is here."""

    name: str


class Failed(Struct, frozen=True, tag="failed", tag_field="step"):
    """It could not go on; there are no more steps."""

    reason: str


Step = Total | Checked | Unknown | Failed


def parse_name(text: str) -> None:
    """See that something is a digest, or an image's name. Raises ValueError."""
    if _find_digest(text) is None:
        parse_image(text)


async def verify(
    store: LocalStorage, records: Records, names: Sequence[str], *, aliases: Aliases
) -> AsyncGenerator[Step]:
    """Hash what `names` mean (digests, or images with all that they consist of); none: everything.

    What is damaged is set aside.
    """
    try:
        digests: set[Digest] | None = set() if names else None
        for name in names:
            found = await _find(store, records, name, aliases)
            if not found:
                yield Unknown(name)
            assert digests is not None  # noqa: S101 - there are names
            digests |= found
        async with aclosing(store.verify(digests)) as checked:
            totals = await store.measure(digests)
            yield Total(totals.blobs, totals.bytes)
            async for digest, size, finding in checked:
                yield Checked(str(digest), size, finding)
    except StoreError as error:
        yield Failed(str(error))


async def rebuild(store: LocalStorage, records: Records) -> AsyncGenerator[Step]:
    """Put on record all that is on disk, if it is what its name says, and which are manifests."""
    try:
        await store.adopt()
        async with aclosing(verify(store, records, [], aliases={})) as steps:
            async for step in steps:
                if isinstance(step, Checked) and step.finding is Finding.RIGHT:
                    await _note_manifest(store, parse_digest(step.digest))
                yield step
    except StoreError as error:
        yield Failed(str(error))


async def _note_manifest(store: LocalStorage, digest: Digest) -> None:
    content = await store.read_blob(digest, limit=MAX_SIZE)
    if content is None or not content.lstrip().startswith(b"{"):
        return
    with suppress(RegistryError):
        if parse_references(content).media_type is not None:
            await store.keep("", digest, content, is_manifest=True)


async def _find(store: LocalStorage, records: Records, name: str, aliases: Aliases) -> set[Digest]:
    digest = _find_digest(name)
    content = [digest] if digest else await list_content(records, *parse_image(name, aliases))
    return await store.find_stored(content)


def _find_digest(text: str) -> Digest | None:
    if not text.startswith(("sha256:", "sha512:")):
        return None
    try:
        return parse_digest(text)
    except RegistryError as error:
        raise ValueError(f"{text}: {error.message}") from error
