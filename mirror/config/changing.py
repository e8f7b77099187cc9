"""What of a configuration can change while the mirror runs, and what waits for the next start."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mirror.config.sections import Config

CHANGEABLE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "server": frozenset(
            {
                "max_connections_per_client", "allowed_networks", "tls_certificate_file",
                "tls_private_key_file", "client_ca_file", "htpasswd_file",
            }
        ),
        "store": frozenset({"max_size", "min_free"}),
        "fill": frozenset({"max_active"}),
        "push": frozenset({"keep_for", "max_blob_size", "max_spool", "max_uploads"}),
        "log": frozenset({"level"}),
    }
)  # fmt: skip
"""Settings that are taken up while it runs, by section; and all of what is `_WHOLE`."""

_WHOLE = ("notify", "upstream")


def change(running: Config, wanted: Config) -> tuple[dict[str, Any], list[str]]:
    """The document of `running` with what of `wanted` can change now; and what has to wait.

    The document is to be validated: what changes and what does not may contradict each other.
    """
    before, after = running.redacted(), wanted.redacted()
    document, waiting = before | {name: after[name] for name in _WHOLE}, []
    for section in sorted((before.keys() | after.keys()) - {*_WHOLE}):
        old, new = before.get(section), after.get(section)
        if not isinstance(old, dict) or not isinstance(new, dict):  # [[pin]]: a list, and none
            waiting += [section] if old != new else []
            continue
        changeable = CHANGEABLE.get(section, frozenset())
        kept = {name: value for name, value in old.items() if name not in changeable}
        taken = {name: value for name, value in new.items() if name in changeable}
        document[section] = kept | taken
        differs = (it for it in old.keys() | new.keys() if old.get(it) != new.get(it))
        waiting += [f"{section}.{name}" for name in sorted(differs) if name not in changeable]
    return document, waiting
