"""The configuration that tests give a mirror, and the metrics that they read from it."""

from pathlib import Path

from mirror.config import parse
from tests.support.mirror import EMPTY_STORE, document, sample, upstream_at

EXPOSITION = """\
# TYPE mirror_lookups counter
mirror_lookups_total{kind="tag",result="hit"} 2
mirror_lookups_total{kind="blob",result="hit"} 3
# TYPE mirror_store_blobs gauge
mirror_store_blobs 7
"""


def test_the_first_upstream_is_the_default() -> None:
    upstreams = {
        "docker.io": upstream_at("http://127.0.0.1:1"),
        "ghcr.io": upstream_at("http://127.0.0.1:2", "http://127.0.0.1:3", max_connections=2),
    }
    config = parse(document(upstreams, store_root=Path("store"), tags={"fresh_for": "5s"}))
    assert [name for name, upstream in config.upstream.items() if upstream.default] == ["docker.io"]
    assert [endpoint.max_connections for endpoint in config.upstream["ghcr.io"].endpoints] == [2, 2]
    assert config.tags.fresh_for == 5
    assert config.server.listen == (("127.0.0.1", 0),)


def test_an_override_replaces_one_setting_and_keeps_the_others() -> None:
    upstreams = {"docker.io": upstream_at("http://127.0.0.1:1")}
    config = parse(document(upstreams, store_root=Path("x"), store={"max_size": "1 MiB"}))
    assert (config.store.root, config.store.max_size) == (Path("x"), 2**20 + EMPTY_STORE)


def test_a_metric_is_the_sum_of_what_carries_its_labels() -> None:
    assert sample(EXPOSITION, "mirror_lookups_total", result="hit") == 5
    assert sample(EXPOSITION, "mirror_lookups_total", kind="tag", result="hit") == 2
    assert sample(EXPOSITION, "mirror_store_blobs") == 7
    assert sample(EXPOSITION, "mirror_lookups_total", kind="tags") == 0
