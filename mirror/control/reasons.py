"""The reasons of pulls, and of eviction, in words that a person understands."""

from collections.abc import Mapping
from types import MappingProxyType

from mirror.contents.models import Reason
from mirror.telemetry.traffic import Why

WORDS: Mapping[Why, str] = MappingProxyType(
    {
        Why.HERE: "it was here, and upstream was not asked",
        Why.NEVER_SEEN: "it was pulled here for the first time",
        Why.EVICTED: "it was here once, and had made room for others",
        Why.OTHER_PLATFORM: "the image is known, and nobody had pulled this platform of it",
        Why.PRIVATE: "it is here by other clients' own logins only, which opens it to nobody else",
        Why.TAG_MOVED: "the tag means another image than before",
        Why.TAG_CONFIRMED: "upstream was asked, and the tag still means the same",
        Why.TAG_GONE: "upstream no longer has this tag; what it meant was served",
        Why.LINK_CONFIRMED: "it was here by another name, and upstream confirmed this one",
        Why.JOINED: "it was on its way already, and this pull joined in",
        Why.NOT_KEPT: "it cannot be kept here, and was passed on",
        Why.UPSTREAM_DOWN: "upstream could not be asked",
        Why.UPSTREAM_SLOW: "upstream did not answer in time",
        Why.UPSTREAM_REFUSED: "upstream refused to answer",
        Why.WRONG_BYTES: "upstream sent something else than it had promised",
        Why.MISSING: "upstream does not have it",
        Why.MISSING_LATELY: "upstream did not have it a moment ago",
        Why.DENIED: "it may not be pulled by this client",
        Why.FAULT: "a fault of the mirror's own; see its log",
    }
)  # fmt: skip

LEAVING: Mapping[Reason, str] = MappingProxyType(
    {
        "partial": "nobody has gone on with this download",
        "superseded": "its tag means another image now",
        "broken": "its image is not here in whole",
        "little-used": "others are asked for more",
    }
)
