"""What refers to an image, as far as it is here: its signatures, SBOMs and the like.

    a list    what registries tell of a digest (spec, "Listing Referrers"), as it was last told
    a tag     that stands for such a list where a registry knows none (spec, "Referrers Tag
              Schema"), or that cosign gives: `sha256-<hex>`, and that with .sig, .att or .sbom

Nobody is asked: what no client has looked up through this mirror is not known here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mirror.aio.reading import read_aside
from mirror.control.bundles import Companion
from mirror.control.whole import WholeImage
from mirror.oci.digest import Digest, digest_of
from mirror.oci.image import name_of
from mirror.oci.manifest import OCI_INDEX
from mirror.oci.reference import Repository, Tag
from mirror.oci.referrers import keep_referrers, list_referrers
from mirror.records.ports import Records

_ENDS = ("", ".sig", ".att", ".sbom")
_MOST = 1000  # lists and tags of one image
_MOST_BYTES = 8 * 2**20  # of all lists of one image


@dataclass(slots=True)
class Companions:
    """Finds them: what refers to some manifests, and to that in turn."""

    records: Records
    repository: Repository
    look_at: Callable[[], WholeImage]  # makes a new one
    found: list[Companion] = field(default_factory=list)
    images: list[WholeImage] = field(default_factory=list)
    """What they consist of."""
    absent: dict[str, None] = field(default_factory=dict)
    """What is known of, and not here in whole (or too much): digests that lists name, and names."""
    _bytes: int = 0

    async def look(self, subjects: Iterable[Digest]) -> None:
        """Add what refers to these. Raises StoreError."""
        seen: set[Digest] = set()
        waiting = list(subjects)
        while waiting and len(self.found) < _MOST:
            subject = waiting.pop()
            if subject not in seen:
                seen.add(subject)
                waiting += await self._listed(subject)
                waiting += await self._tagged(subject)

    async def _listed(self, subject: Digest) -> list[Digest]:
        record = await self.records.find_referrers(self.repository, subject)
        if record is None or not record.content:
            return []
        self._bytes += len(record.content)
        if self._bytes > _MOST_BYTES:
            self.absent[name_of(self.repository, subject)] = None
            return []
        here, found = list[Digest](), list[Digest]()
        for entry in await read_aside(list_referrers, record.content):
            image = self.look_at()
            if await image.look(entry.digest, entry.media_type):
                self.absent[str(entry.digest)] = None
            else:
                here.append(entry.digest)
                self.images.append(image)
                found += image.manifests
        content = keep_referrers(record.content, here)
        self.found.append(
            Companion(
                name_of(self.repository, subject), str(digest_of(content)), OCI_INDEX,
                len(content), len(here), content.decode(),
            )
        )  # fmt: skip
        return found

    async def _tagged(self, subject: Digest) -> list[Digest]:
        found: list[Digest] = []
        for end in _ENDS:
            tag = Tag(f"{subject.algorithm}-{subject.encoded}{end}")
            record = await self.records.find_tag(self.repository, tag.name)
            if record is None:
                continue
            image, name = self.look_at(), name_of(self.repository, tag)
            if await image.look(record.digest):
                self.absent[name] = None
                continue
            root = image.manifests[record.digest]
            self.images.append(image)
            self.found.append(
                Companion(name, str(record.digest), root.media_type, len(root.content))
            )
            found += image.manifests
        return found
