"""An image's configuration, as far as it says what made the image (image-spec, config.md)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mirror.contents.models import Step

MAX_SIZE = 2**20
"""Bytes; what is larger is not read: it would hold up others, and says no more to a person."""

_STEPS = 1_000  # that are told of; no builder makes as many layers
_LONGEST = 4_096  # characters of what somebody has written


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """`created` as RFC 3339 has it, None where it is not said; `platform` "" likewise."""

    created: str | None = None
    platform: str = ""
    history: Sequence[Step] = ()


def parse_config(content: bytes) -> ImageConfig:
    """What it says; nothing, where it is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return ImageConfig()
    if not isinstance(document, dict):
        return ImageConfig()
    parts = (_text(document, part) for part in ("os", "architecture", "variant"))
    return ImageConfig(
        created=_text(document, "created") or None,
        platform="/".join(part for part in parts if part),
        history=_history(document.get("history")),
    )


def _history(entries: object) -> list[Step]:
    steps = list[Step]()
    layer = 0
    for entry in entries[:_STEPS] if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        makes_layer = entry.get("empty_layer") is not True
        steps.append(
            Step(
                created=_text(entry, "created") or None,
                created_by=_text(entry, "created_by"),
                comment=_text(entry, "comment"),
                layer=layer if makes_layer else None,
            )
        )
        layer += makes_layer
    return steps


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    return value[:_LONGEST] if isinstance(value, str) else ""
