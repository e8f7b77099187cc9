"""What of the configuration a worker is told: what it serves by, and nothing of upstreams' own.

It travels in the notation of the file, and is validated again where it arrives.
"""

from typing import Any

from mirror.config import Config, parse

PAGE = "page"
"""Beside the sections: what browsers are shown."""


def settings_for_workers(config: Config, page: str = "") -> dict[str, Any]:
    """The part of the configuration that workers need, and what they show browsers."""
    document = config.model_dump(
        mode="json",
        exclude_none=True,
        include={
            "server": True,
            "store": {"memory_cache"},
            "fill": {"prefetch"},
            "log": {"level"},
            "upstream": {
                "__all__": {
                    "default",
                    "aliases",
                    "hosts",
                    "access",
                    "push",
                    "allow_push",
                    "relay_tokens",
                    "allow",
                    "deny",
                }
            },
        },
    )
    document["server"]["workers"] = config.server.worker_count  # one count, for every share
    for upstream in document["upstream"].values():
        upstream["endpoints"] = [{"url": "http://nowhere.invalid"}]  # a worker asks none of them
    document[PAGE] = page
    return document


def parse_settings(document: dict[str, Any]) -> Config:
    """The configuration as a worker sees it. Raises ConfigError."""
    return parse({name: it for name, it in document.items() if name != PAGE})
