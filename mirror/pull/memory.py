"""What is kept in memory, within bounds: content, tags, links, and what is missing.

Everything here is a copy of what is stored or on record, or may be forgotten: losing it costs a
read. What is remembered for a while counts by the monotonic `clock`: nobody sets that one back.
"""

import hashlib
from collections.abc import Callable, Iterator, MutableMapping, Set as AbstractSet
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from cachetools import LRUCache

from mirror.aio.bounded import LruBytes, TtlBytes
from mirror.oci.digest import Digest
from mirror.oci.errors import Denied, ErrorCode, Missing
from mirror.oci.manifest import Manifest
from mirror.oci.reference import Repository
from mirror.pull.forget import Forgettable, Moved, TagOf
from mirror.records.ports import Link, TagRecord
from mirror.sources.registry.endpoint import Scope

SMALL = 256 * 2**10
"""Bytes; blobs up to this size are served from memory."""

_Key = TypeVar("_Key")

_OVERHEAD = 512  # bytes that an entry costs beyond its content
_MIB = 2**20
# Bytes of each: clients choose the names, and registries the words.
_MEDIA_TYPES = 8 * _MIB
_LINKS = 24 * _MIB
_SENDERS = 12 * _MIB
_TAGS = 8 * _MIB
_MISSING = 8 * _MIB
_DENIED = 4 * _MIB


class _Asked(NamedTuple):
    """What was asked for, and by whom: by a hash, since an authorization may have 16 KiB."""

    repository: Repository
    authorization: bytes | None
    what: str

    @property
    def length(self) -> int:
        """Of its texts, in characters (which are ASCII)."""
        return len(self.repository.name) + len(self.what)


def _asked(scope: Scope, what: str) -> _Asked:
    who = scope.authorization
    digest = None if who is None else hashlib.sha256(who.encode(errors="replace")).digest()
    return _Asked(scope.repository, digest, what)


class Memory:
    """Bounded caches with a story each; `size` in bytes bounds the content.

    `credentials` gives what changes when the mirror's own do, at an upstream.
    """

    def __init__(
        self,
        size: int,
        *,
        missing_for: float,
        clock: Callable[[], float],
        credentials: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._content: LRUCache[Digest, bytes] = LRUCache(size, getsizeof=_size)
        # By upstream: what one calls a manifest is not what another's clients are told.
        self._media_types: LruBytes[tuple[str, Digest], str] = LruBytes(
            _MEDIA_TYPES, lambda key, media_type: len(key[1].encoded) + len(media_type)
        )
        self._links: LruBytes[tuple[Repository, Digest], Link] = LruBytes(
            _LINKS, lambda key, _: len(key[0].name) + len(key[1].encoded)
        )
        self._senders: LruBytes[Digest, frozenset[str]] = LruBytes(
            _SENDERS, lambda digest, _: len(digest.encoded)
        )
        self._tags: LruBytes[tuple[Repository, str], TagRecord] = LruBytes(
            _TAGS, lambda key, record: len(key[0].name) + len(key[1]) + len(record.digest.encoded)
        )
        self._missing: TtlBytes[_Asked, ErrorCode] = TtlBytes(
            _MISSING, lambda asked, _: asked.length, ttl=missing_for, timer=clock
        )
        self._denied: TtlBytes[_Asked, tuple[object, ErrorCode, str]] = TtlBytes(
            _DENIED, lambda asked, said: asked.length + 4 * len(said[2]),
            ttl=missing_for, timer=clock,
        )  # fmt: skip
        self._credentials = credentials
        self.generation = 0
        """How often something has been forgotten: what was asked for before may be just that."""

    def find_manifest(self, upstream: str, digest: Digest) -> Manifest | None:
        """A manifest, as this upstream calls it."""
        content = self._content.get(digest)
        media_type = self._media_types.get((upstream, digest))
        if content is None or media_type is None:
            return None
        return Manifest(digest, media_type, content)

    def keep_manifest(self, upstream: str, manifest: Manifest) -> None:
        """Remember a manifest, as far as there is room for it."""
        self._media_types[upstream, manifest.digest] = manifest.media_type
        self.keep_blob(manifest.digest, manifest.content)

    def find_blob(self, digest: Digest) -> bytes | None:
        """The whole content of a small blob (or of a manifest, which is one too)."""
        return self._content.get(digest)

    def holds(self, digest: Digest) -> bool:
        """Whether its content is here; to ask is no use of it."""
        return digest in self._content

    def keep_blob(self, digest: Digest, content: bytes) -> None:
        """Remember content; what is larger than the whole cache is not."""
        if _size(content) <= self._content.maxsize:
            self._content[digest] = content

    def find_link(self, repository: Repository, digest: Digest) -> Link | None:
        """What is known of the repository's having a digest."""
        return self._links.get((repository, digest))

    def keep_link(self, repository: Repository, digest: Digest, link: Link) -> None:
        """Remember what is known of the repository's having a digest."""
        self._links[repository, digest] = link

    def find_senders(self, digest: Digest) -> frozenset[str] | None:
        """All upstreams that have sent these bytes; None where they are not remembered."""
        return self._senders.get(digest)

    def add_senders(self, digest: Digest, senders: frozenset[str]) -> frozenset[str]:
        """Remember all of them, with those who have sent it since they were read; returns both."""
        everyone = self._senders[digest] = senders | self._senders.get(digest, frozenset())
        return everyone

    def find_tag(self, repository: Repository, tag: str) -> TagRecord | None:
        """What the tag was last known to mean."""
        return self._tags.get((repository, tag))

    def keep_tag(self, repository: Repository, tag: str, record: TagRecord) -> None:
        """Remember what a tag means."""
        self._tags[repository, tag] = record

    def forget(self, what: Forgettable) -> None:
        """Drop what is remembered of it; forgetting is rare, so that no index is kept for it."""
        self.generation += not isinstance(what, Moved)
        match what:
            case Digest():
                self._content.pop(what, None)
                _drop(self._media_types, lambda key: key[1] == what)
                _drop(self._links, lambda key: key[1] == what)
                _drop(self._tags, lambda key: self._tags[key].digest == what)
                _drop(self._missing, lambda key: key.what.endswith(f" {what}"))
                _drop(self._denied, lambda key: key.what.endswith(f" {what}"))
            case TagOf() | Moved():
                self._tags.pop((what.repository, what.name.name), None)
                missing = what.repository, f"manifest {what.name}"
                _drop(self._missing, lambda key: (key.repository, key.what) == missing)
                _drop(self._denied, lambda key: (key.repository, key.what) == missing)
            case Repository():
                _drop(self._links, lambda key: key[0] == what)
                _drop(self._tags, lambda key: key[0] == what)
                _drop(self._missing, lambda key: key.repository == what)
                _drop(self._denied, lambda key: key.repository == what)

    def note_there(self, repository: Repository, digest: Digest) -> None:
        """It is there now: that upstream did not have it, or denied it, is of the past."""
        for cache in (self._missing, self._denied):
            if cache:
                _drop(
                    cache,
                    lambda key: key.repository == repository and key.what.endswith(f" {digest}"),
                )

    def forget_records(self, digests: AbstractSet[Digest]) -> None:
        """Drop links and senders of what is forgotten on record: else it is not recorded anew.

        It takes a look at everything: for many digests at a time.
        """
        for digest in digests:
            self._senders.pop(digest, None)
        for links in [key for key in self._links if key[1] in digests]:
            self._links.pop(links, None)

    @contextmanager
    def remembering_missing(self, scope: Scope, what: str) -> Iterator[None]:
        """Ask upstream inside the block; what it does not have, it is not asked for again soon.

        `what` names it and its kind: that no manifest has a digest says nothing of a blob. What the
        mirror's own credentials were refused is not asked for again either, until they change.

        Raises:
            Missing, Denied: Upstream said so a moment ago.
        """
        key = _asked(scope, what)
        code = self._missing.get(key)  # once: it may expire between two looks
        if code is not None:
            error = Missing(code, "upstream does not have it")
            error.is_remembered = True
            raise error
        self._raise_denial(key)
        try:
            yield
        except Missing as error:
            if not error.is_remembered:
                self._missing[key] = error.code
            raise
        except Denied as error:
            if scope.authorization is None:
                version = self._credentials(scope.repository.namespace)
                self._denied[key] = (version, error.code, error.message)
            raise

    def _raise_denial(self, key: _Asked) -> None:
        denial = self._denied.get(key)
        if denial is not None:
            version, code, message = denial
            if version == self._credentials(key.repository.namespace):
                raise Denied(code, message)


def _drop(cache: MutableMapping[_Key, Any], is_it: Callable[[_Key], bool]) -> None:
    for key in [key for key in cache if is_it(key)]:
        cache.pop(key, None)  # it may have expired meanwhile


def _size(content: bytes) -> int:
    return len(content) + _OVERHEAD
