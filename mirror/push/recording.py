"""What was pushed is here afterwards, as if it had been pulled: the next pull asks nobody.

access      push        what was pushed is served
"client"    any         to whoever upstream lets in, as all that is there
"mirror"    "mirror"    to everybody: the mirror's own credentials have pushed it
"mirror"    "client"    once upstream has confirmed it to the mirror's own credentials: a pusher's
                        may reach where those may not, and nothing of that is kept
"""

import logging
from collections.abc import Awaitable, Callable, Mapping

from mirror.aio.reading import read_aside
from mirror.config import Upstream
from mirror.oci.digest import Digest
from mirror.oci.errors import RegistryError, StoreError
from mirror.oci.manifest import (
    Manifest,
    References,
    find_subject,
    media_type_of,
    parse_references,
)
from mirror.oci.reference import Reference, Repository, Tag
from mirror.pull.fill.others import Others
from mirror.pull.forget import Forgetting, TagOf
from mirror.pull.links import Links
from mirror.pull.manifests import Manifests
from mirror.pull.memory import Memory
from mirror.push.content import Spooled
from mirror.push.course import Course
from mirror.records.ports import Records
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.spools import Spool
from mirror.storage.store import LocalStorage
from mirror.telemetry.log import fields

_logger = logging.getLogger(__name__)


class Recording:
    """Notes what a registry has, that it was pushed; nothing of it fails a push."""

    def __init__(
        self,
        store: LocalStorage,
        records: Records,
        memory: Memory,
        links: Links,
        manifests: Manifests,
        *,
        registries: Mapping[str, Registry],
        upstreams: Mapping[str, Upstream],
        forgetting: Forgetting,
        others: Others | None = None,
    ) -> None:
        self._store = store
        self._records = records
        self._memory = memory
        self._links = links
        self._manifests = manifests
        self._registries = registries
        self._upstreams = upstreams
        self._forgetting = forgetting
        self._others = others

    async def note_blob(self, course: Course) -> None:
        """A registry has all of a course."""
        repository, digest, content = course.repository, course.sealed, course.content
        assert digest is not None  # noqa: S101 - it has a name when it is there
        self._memory.note_there(repository, digest)
        spool = content.spool if isinstance(content, Spooled) else None
        try:
            if await self._may_be_served(
                repository, lambda registry, own: registry.head_blob(own, digest)
            ):
                if spool is not None:
                    await self._links.record_sent(repository.namespace, digest)
                    await self._store.keep_spool(repository.namespace, digest, spool)
                    if self._others is not None:
                        self._others.note_here(repository.namespace, digest)
                await self._links.record(repository, digest, content.size)
        except StoreError as error:
            _logger.warning("pushed, and not kept: %s", error, extra=fields(digest=digest))
        if spool is not None:
            await self._let_go(spool)

    async def note_manifest(
        self,
        repository: Repository,
        reference: Reference,
        manifest: Manifest,
        *,
        is_last: Callable[[], bool],
    ) -> None:
        """A registry has a manifest, under this tag or its digest.

        Unless it `is_last`, nobody but the registry knows what the tag means by now.
        """
        digest = manifest.digest
        self._memory.note_there(repository, digest)
        tag = reference if isinstance(reference, Tag) else None
        if tag is not None:
            self._forgetting.forget(TagOf(repository, tag))
        references = await read_aside(_references, manifest.content)
        # What it is by its own bytes: a pusher's header is not what others are told of them.
        media_type = media_type_of(references, None) or manifest.media_type
        manifest = Manifest(digest, media_type, manifest.content)
        subject = await read_aside(find_subject, manifest.content)
        if subject is not None:
            self._memory.note_there(repository, subject)
            await self._forget_referrers(repository, subject)
        if await self._may_be_served(
            repository, lambda registry, own: registry.confirm_manifest(own, digest)
        ):
            known = tag if is_last() else None
            await self._manifests.note_pushed(repository, manifest, references, known)
        if tag is not None and not is_last():
            await self._forget_tag(repository, tag)

    async def _may_be_served(
        self,
        repository: Repository,
        confirm: Callable[[Registry, Scope], Awaitable[object]],
    ) -> bool:
        """See the table at the top of this module."""
        settings = self._upstreams.get(repository.namespace)
        if settings is None:  # any more
            return False
        if settings.access != "mirror" or settings.push != "client":
            return True
        try:
            await confirm(self._registries[repository.namespace], Scope(repository, None))
        except RegistryError:
            return False
        return True

    async def _forget_tag(self, repository: Repository, tag: Tag) -> None:
        """What it means is to be asked for."""
        try:
            await self._records.forget_tag(repository, tag.name)
        except StoreError as error:
            _logger.warning("a tag is not forgotten: %s", error, extra=fields(tag=tag))
        self._forgetting.forget(TagOf(repository, tag))

    async def _forget_referrers(self, repository: Repository, subject: Digest) -> None:
        try:
            await self._records.forget_referrers(repository, subject)
        except StoreError as error:
            _logger.warning("referrers not forgotten: %s", error, extra=fields(digest=subject))

    async def _let_go(self, spool: Spool) -> None:
        try:
            await spool.remove()
        except StoreError as error:
            _logger.warning("a spool is not removed: %s", error, extra=fields())


def _references(content: bytes) -> References:
    try:
        return parse_references(content)
    except RegistryError:
        return References()
