"""What of a configuration can change while the mirror runs."""

from typing import Any

import pytest

from mirror.config import parse
from mirror.config.changing import CHANGEABLE, change
from mirror.config.sections import Config

HUB = {"docker.io": {"endpoints": [{"url": "https://registry-1.docker.io"}]}}


def changed(before: dict[str, Any], after: dict[str, Any]) -> tuple[Config, list[str]]:
    document, waiting = change(parse(before), parse(after))
    return parse(document), waiting


def test_without_a_change_nothing_changes() -> None:
    config, waiting = changed({}, {})
    assert config == parse({})
    assert waiting == []


def test_what_can_change_does_and_the_rest_is_named() -> None:
    after = {
        "store": {"max_size": "1 GiB", "root": "/elsewhere"},
        "log": {"level": "debug", "format": "json"},
        "tags": {"fresh_for": "1h"},
    }
    config, waiting = changed({"store": {"min_free": "1 GiB"}}, after)
    assert (config.store.max_size, config.store.min_free) == (2**30, 2 * 2**30)
    assert (config.log.level, config.log.format) == ("debug", "text")
    assert waiting == ["log.format", "store.root", "tags.fresh_for"]


def test_a_setting_that_is_taken_out_is_as_it_was_by_default() -> None:
    config, _ = changed({"server": {"allowed_networks": ["10.0.0.0/8"]}}, {})
    assert config.server.allowed_networks == ()


def test_pins_wait_for_a_restart() -> None:
    pinned = {"pin": [{"image": "docker.io/library/alpine:3"}]}
    assert changed({}, pinned) == (parse({}), ["pin"])
    assert changed(pinned, {}) == (parse(pinned), ["pin"])


def test_webhooks_come_and_go() -> None:
    hook = {"url": "https://hooks.example/secret", "occasions": ["disk"]}
    assert changed({}, {"notify": [hook]}) == (parse({"notify": [hook]}), [])
    assert changed({"notify": [hook]}, {}) == (parse({}), [])


def test_an_upstream_with_images_that_stay_pinned_cannot_go() -> None:
    pinned = {"upstream": HUB, "pin": [{"image": "docker.io/library/alpine:3"}]}
    other = {"upstream": {"ghcr.io": {"endpoints": [{"url": "https://ghcr.io"}]}}}
    document, _ = change(parse(pinned), parse(other))
    with pytest.raises(Exception, match="cannot be pinned: there is no"):
        parse(document)


def test_what_can_change_is_what_there_is() -> None:
    for section, names in CHANGEABLE.items():
        assert names <= getattr(Config(), section).model_fields_set | set(
            type(getattr(Config(), section)).model_fields
        )
