"""Pulls of manifests: by digest for ever, by tag for as long as the tag is fresh.

A tag that is not known is fetched by one GET, also where the client sends HEAD first (all do):
the manifest is needed next. A tag that has expired is checked by one HEAD, which costs no pull.
"""

import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from mirror.aio.reading import read_aside
from mirror.aio.single_flight import SingleFlight
from mirror.oci.digest import Digest
from mirror.oci.errors import DigestMismatch, Missing, Refused, RegistryError, Unavailable
from mirror.oci.manifest import MAX_SIZE, Manifest, References, media_type_of, parse_references
from mirror.oci.reference import Reference, Repository, Tag
from mirror.pull.answers import (
    CONFIRMED,
    HIT,
    JOINED,
    LINKED,
    MISS,
    NOT_MODIFIED,
    STORED,
    ManifestAnswer,
)
from mirror.pull.elsewhere import Elsewhere
from mirror.pull.freshness import Freshness, Policy
from mirror.pull.keeping import try_to_keep, try_to_read
from mirror.pull.links import Links, Verdict
from mirror.pull.memory import Memory
from mirror.pull.outcomes import kept_as, marked, stale, told_since
from mirror.records.ports import Fleet, Records, TagRecord
from mirror.sources.registry.endpoint import Scope
from mirror.sources.registry.registry import Registry
from mirror.storage.ports import Storage
from mirror.telemetry.log import explain
from mirror.telemetry.traffic import Result, Why

_logger = logging.getLogger(__name__)


class Manifests:
    """Answers pulls of manifests. `clock` in seconds since the epoch: it outlives the process.

    `note_tag` is told what a tag meant before, as far as that is known, and what it means now.
    `fleet` are the mirrors that share their records with this one, if there are any.
    """

    def __init__(
        self,
        *,
        store: Storage,
        records: Records,
        memory: Memory,
        links: Links,
        registries: Mapping[str, Registry],
        flights: SingleFlight[object, ManifestAnswer],
        policy: Policy,
        patience: float,
        clock: Callable[[], float],
        note_tag: Callable[[Repository, Digest | None, Digest], None],
        fleet: Fleet,
    ) -> None:
        self._store = store
        self._records = records
        self._memory = memory
        self._links = links
        self._registries = registries
        self._flights = flights
        self._policy = policy
        self._patience = patience  # seconds to wait for upstream where a stale answer is at hand
        self._clock = clock
        self._note_tag = note_tag
        self._fleet = fleet
        self._elsewhere = Elsewhere(fleet, store, records, links)
        # The flight on which an upstream keeps somebody waiting: as long as it is in the air,
        # nobody else waits for that upstream, and it is asked about no other tag.
        self._slow: dict[str, object] = {}

    async def get_by_digest(self, scope: Scope, digest: Digest) -> ManifestAnswer:
        """The manifest with this digest; upstream is asked for it once in its life.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing.
        """
        manifest = await self._find(scope, digest)
        verdict = Verdict.FETCH
        if manifest is not None:
            verdict = await self._judge(scope, digest)
        explain(
            _logger, "a manifest is looked for", repository=scope.repository, digest=digest,
            is_here=manifest is not None, verdict=verdict.name.lower(),
        )  # fmt: skip
        if manifest is None or verdict is Verdict.FETCH:
            is_here = manifest is not None
            return await self._fly(
                ("manifest", scope, digest),
                lambda: self._fetch_digest(scope, digest, is_here=is_here),
            )
        if verdict is Verdict.SERVE:
            self._store.note_access(digest)
            return ManifestAnswer(manifest, HIT)
        found = manifest

        async def confirm() -> ManifestAnswer:
            with self._memory.remembering_missing(scope, f"manifest {digest}"):
                await self._registry(scope).confirm_manifest(scope, digest)
            references = await read_aside(_references, found.content)
            await self._links.record_manifest(scope.repository, found, references, is_sent=False)
            is_open = await self._links.is_open(digest)
            return ManifestAnswer(found, LINKED if is_open else MISS.since(Why.PRIVATE))

        return await self._flights.join(("confirm", scope, digest), confirm)

    async def get_by_tag(self, scope: Scope, tag: Tag) -> ManifestAnswer:
        """What the tag means, as far as that is known or can be had.

        Raises:
            Missing, Denied, Unavailable: What upstream says, or that it says nothing, and the
                store has nothing (any more) to fall back on.
        """
        record = await self._find_tag(scope.repository, tag)
        if record is None:
            explain(
                _logger, "a tag is not known: upstream is asked", repository=scope.repository,
                tag=tag,
            )  # fmt: skip
            key = ("tag", scope, tag, self._memory.generation)
            return await self._fly(key, lambda: self._fetch_unknown_tag(scope, tag))
        freshness = self._freshness(scope, record)
        is_word = not record.is_fallback or not self._registry(scope).tells_tags(
            scope.repository.name
        )
        explain(
            _logger, "a tag is judged by its age", repository=scope.repository, tag=tag,
            digest=record.digest, freshness=freshness.name.lower(), by=record.told_by,
            age=round(self._clock() - record.checked_at, 1), is_fallback=record.is_fallback,
        )  # fmt: skip
        if freshness is Freshness.FRESH and is_word:
            with suppress(Missing):  # evicted here, gone there: the tag must mean something else
                answer = await self.get_by_digest(scope, record.digest)
                return marked(answer, is_fallback=record.is_fallback)
        kept = None
        if freshness is not Freshness.DEAD:
            kept = await self.find_permitted(scope, record.digest)
        if kept is not None and self._is_silent(scope):
            explain(
                _logger, "upstream keeps others waiting: what the tag meant is served",
                repository=scope.repository, tag=tag,
            )  # fmt: skip
            self._store.note_access(record.digest)
            return ManifestAnswer(kept, kept_as(record).since(Why.UPSTREAM_SLOW))
        patience = None if kept is None else self._patience_for(scope)
        key = ("tag", scope, tag, self._memory.generation)
        try:
            return await self._flights.join(
                key, lambda: self._check_tag_in_turn(scope, tag, record), within=patience
            )
        except (Unavailable, Missing, Refused, DigestMismatch, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                self._slow[scope.repository.namespace] = key
            explain(
                _logger, "upstream does not say what the tag means", repository=scope.repository,
                tag=tag, why=str(error) or "it is too slow", is_served_stale=kept is not None,
            )  # fmt: skip
            if kept is None:
                raise
            self._store.note_access(record.digest)
            return ManifestAnswer(kept, stale(record, error, patience))

    async def find_permitted(self, scope: Scope, digest: Digest) -> Manifest | None:
        """A manifest that may be served without asking anybody."""
        found = await self._find(scope, digest)
        if found is not None and await self._judge(scope, digest) is Verdict.SERVE:
            return found
        return None

    def good_until(self, scope: Scope, reference: Reference, answer: ManifestAnswer) -> float:
        """When this answer must be asked for again, in seconds since the epoch."""
        if not isinstance(reference, Tag):
            return math.inf
        record = self._memory.find_tag(scope.repository, reference.name)
        if record is None or record.digest != answer.manifest.digest or record.is_fallback:
            return 0.0
        if self._freshness(scope, record) is not Freshness.FRESH:
            return 0.0
        since = self._clock() if self._registry(scope).is_sealed else record.checked_at
        return since + self._policy.fresh_for

    def _freshness(self, scope: Scope, record: TagRecord) -> Freshness:
        """How good the record is; where nobody is ever asked, there is no better one."""
        if self._registry(scope).is_sealed:
            return Freshness.FRESH
        return self._policy.decide(
            record.checked_at, now=self._clock(), is_imported=record.is_imported
        )

    def _is_silent(self, scope: Scope) -> bool:
        return self._flights.is_running(self._slow.get(scope.repository.namespace))

    def _patience_for(self, scope: Scope) -> float:
        """How long to wait for upstream, in seconds; it is asked (and its answer kept) anyway."""
        return (
            self._patience if self._registry(scope).speaks_of_tags(scope.repository.name) else 0.0
        )

    async def _fly(
        self, key: object, start: Callable[[], Coroutine[Any, Any, ManifestAnswer]]
    ) -> ManifestAnswer:
        joined = self._flights.is_running(key)
        answer = await self._flights.join(key, start)
        if not joined:
            return answer
        explain(_logger, "others had asked already: their answer is shared")
        is_fallback = answer.outcome.is_fallback
        return ManifestAnswer(answer.manifest, JOINED.by(is_fallback=is_fallback))

    # Asking upstream; run once, however many wait

    async def _fetch(
        self, scope: Scope, reference: Digest | Tag, why: Why = Why.NEVER_SEEN
    ) -> ManifestAnswer:
        with self._memory.remembering_missing(scope, f"manifest {reference}"):
            sent = await self._registry(scope).get_manifest(scope, reference)
        if sent.manifest.is_signed:
            outcome = MISS.since(Why.NOT_KEPT).by(is_fallback=sent.is_fallback)
            outcome = outcome.sent_by(sent.told_by)
            return ManifestAnswer(sent.manifest, outcome, told_by=sent.told_by)
        await try_to_keep(self._keep(scope.repository, sent.manifest, sent.references))
        outcome = STORED.since(why).by(is_fallback=sent.is_fallback).sent_by(sent.told_by)
        return ManifestAnswer(sent.manifest, outcome, told_by=sent.told_by)

    async def _fetch_digest(self, scope: Scope, digest: Digest, *, is_here: bool) -> ManifestAnswer:
        why = Why.PRIVATE
        if not is_here:
            link = await self._links.find(scope.repository, digest)
            why = await self._links.why_missed(scope.repository, digest, link, is_manifest=True)
        return await self._fetch(scope, digest, why)

    async def _fetch_unknown_tag(self, scope: Scope, tag: Tag) -> ManifestAnswer:
        with self._memory.remembering_missing(scope, f"manifest {tag}"):
            pass  # nobody else has to be asked for what is remembered
        async with self._turn(scope, tag) as told:
            if told is not None:
                with suppress(Missing):  # gone there meanwhile: the tag must mean something else
                    return await self._by_anothers_word(scope, tag, told, None)
            return await self._fetch_tag(scope, tag, None)

    async def _check_tag_in_turn(self, scope: Scope, tag: Tag, record: TagRecord) -> ManifestAnswer:
        async with self._turn(scope, tag) as told:
            if told is not None:
                with suppress(Missing):
                    return await self._by_anothers_word(scope, tag, told, record.digest)
            return await self._check_tag(scope, tag, record)

    def _turn(self, scope: Scope, tag: Tag) -> AbstractAsyncContextManager[TagRecord | None]:
        since = self._clock() - self._policy.fresh_for
        return self._fleet.turn(scope.repository, tag.name, since=since)

    async def _by_anothers_word(
        self, scope: Scope, tag: Tag, told: TagRecord, was: Digest | None
    ) -> ManifestAnswer:
        """What upstream has just told another mirror."""
        answer = told_since(await self.get_by_digest(scope, told.digest), was)
        self._memory.keep_tag(scope.repository, tag.name, told)
        self._note_tag(scope.repository, was, told.digest)
        return marked(answer, is_fallback=told.is_fallback)

    async def _fetch_tag(self, scope: Scope, tag: Tag, was: Digest | None) -> ManifestAnswer:
        """What a tag means that meant something else, or (None) nothing, for all that we know."""
        generation = self._memory.generation
        answer = told_since(await self._fetch(scope, tag), was)
        record = TagRecord(
            answer.manifest.digest, self._clock(), answer.outcome.is_fallback,
            told_by=answer.told_by,
        )  # fmt: skip
        await self._record_tag(scope.repository, tag, record, generation)
        return answer

    async def _check_tag(self, scope: Scope, tag: Tag, record: TagRecord) -> ManifestAnswer:
        generation = self._memory.generation
        with self._memory.remembering_missing(scope, f"manifest {tag}"):
            state = await self._registry(scope).head_tag(scope, tag, record.digest)
        was = record.digest
        answer = None
        if state.digest is not None:
            with suppress(Missing):  # it has moved again, or the registry knows tags alone
                answer = told_since(await self.get_by_digest(scope, state.digest), was)
        if state.digest is None or answer is None:
            return await self._fetch_tag(scope, tag, was)
        is_fallback = state.is_fallback
        record = TagRecord(state.digest, self._clock(), is_fallback, told_by=state.told_by)
        await self._record_tag(scope.repository, tag, record, generation)
        if answer.outcome.result is Result.HIT:
            outcome = NOT_MODIFIED if state.not_modified else CONFIRMED
            answer = told_since(ManifestAnswer(answer.manifest, outcome), was)
        return marked(answer, is_fallback=is_fallback)

    def _registry(self, scope: Scope) -> Registry:
        return self._registries[scope.repository.namespace]

    # Keeping

    async def _keep(
        self, repository: Repository, manifest: Manifest, references: References
    ) -> None:
        """In memory and on disk; before either, it is on record who has sent it (`Links`)."""
        upstream = repository.namespace
        await self._links.record_manifest(repository, manifest, references, is_sent=True)
        self._memory.keep_manifest(upstream, manifest)
        await self._store.keep(upstream, manifest.digest, manifest.content, is_manifest=True)
        await self._fleet.put_manifest(manifest.digest, manifest.content)

    async def note_pushed(
        self, repository: Repository, manifest: Manifest, references: References, tag: Tag | None
    ) -> None:
        """Upstream has taken a manifest, and the tag means that now.

        Whoever remembers what the tag meant before has been told to forget it.
        """
        if not manifest.is_signed:
            await try_to_keep(self._keep(repository, manifest, references))
        if tag is not None:
            record = TagRecord(manifest.digest, self._clock())
            await self._record_tag(repository, tag, record, self._memory.generation)

    async def _find_tag(self, repository: Repository, tag: Tag) -> TagRecord | None:
        record = self._memory.find_tag(repository, tag.name)
        if record is None:
            record = await self._records.find_tag(repository, tag.name)
            if record is not None:
                self._memory.keep_tag(repository, tag.name, record)
        return record

    async def _record_tag(
        self, repository: Repository, tag: Tag, record: TagRecord, generation: int
    ) -> None:
        """Upstream was asked in this generation; what is forgotten since is not kept again."""
        if generation != self._memory.generation:
            return
        before = self._memory.find_tag(repository, tag.name)
        self._memory.keep_tag(repository, tag.name, record)
        await try_to_keep(self._records.record_tag(repository, tag.name, record))
        self._note_tag(repository, None if before is None else before.digest, record.digest)

    async def _judge(self, scope: Scope, digest: Digest) -> Verdict:
        link = await self._links.find(scope.repository, digest)
        return await self._links.judge(scope.repository, digest, link)

    async def _find(self, scope: Scope, digest: Digest) -> Manifest | None:
        """A manifest from memory or disk; None for what is not (known to be) one."""
        upstream = scope.repository.namespace
        manifest = self._memory.find_manifest(upstream, digest)
        if manifest is not None:
            return manifest
        content = self._memory.find_blob(digest)
        if content is None:  # of a layer, no client's word brings more than this into memory
            content = await try_to_read(self._store, digest, limit=MAX_SIZE)
        if content is None:
            content = await self._elsewhere.find(scope.repository, digest)
        if content is None:
            return None
        media_type = await self._records.find_media_type(upstream, digest)
        media_type = media_type_of(await read_aside(_references, content), media_type)
        if media_type is None:
            return None  # a configuration, say: upstream knows no manifest of this name either
        manifest = Manifest(digest, media_type, content)
        self._memory.keep_manifest(upstream, manifest)
        return manifest


def _references(content: bytes) -> References:
    try:
        return parse_references(content)
    except RegistryError:
        return References()  # by digest, anything may be a manifest; it refers to nothing we know
