"""How it is called what a tag means, or meant, by whose word. Pure."""

from dataclasses import replace

from mirror.oci.digest import Digest
from mirror.oci.errors import DigestMismatch, Missing, Refused
from mirror.pull.answers import GONE, IMPORTED, STALE, ManifestAnswer, Outcome
from mirror.records.ports import TagRecord
from mirror.telemetry.traffic import Why


def told_since(answer: ManifestAnswer, was: Digest | None) -> ManifestAnswer:
    """The same, told apart where a tag means another manifest than it `was`."""
    if was is None or was == answer.manifest.digest:
        return answer
    return replace(answer, outcome=answer.outcome.since(Why.TAG_MOVED, was))


def stale(record: TagRecord, error: Exception, patience: float | None) -> Outcome:
    """How it is called that a tag means what it did, although upstream has not said so."""
    match error:
        case Missing():
            return GONE
        case TimeoutError() if patience:  # without patience, it is known to be down
            return kept_as(record).since(Why.UPSTREAM_SLOW)
        case DigestMismatch():
            return kept_as(record).since(Why.WRONG_BYTES)
        case Refused():
            return kept_as(record).since(Why.UPSTREAM_REFUSED)
        case _:
            return kept_as(record)


def marked(answer: ManifestAnswer, *, is_fallback: bool) -> ManifestAnswer:
    """The same, with whose word it is: of an endpoint that is asked in another's place, or not."""
    return replace(answer, outcome=answer.outcome.by(is_fallback=is_fallback))


def kept_as(record: TagRecord) -> Outcome:
    """How it is called that it is served for what it meant when it was last said."""
    return IMPORTED if record.is_imported else STALE
