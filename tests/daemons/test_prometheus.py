"""A real Prometheus, with the rules that ship, watches a real mirror."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.support.client import get
from tests.support.images import image, random_layer
from tests.support.mirror import Mirror, running_mirror, upstream_at
from tests.support.process import Process, answers, free_port, until
from tests.support.require import require
from tests.support.upstream import RateLimit, ScriptedRegistry

pytestmark = pytest.mark.daemons

DEPLOY = Path(__file__).parents[2] / "deploy"
REPOSITORY = "library/alpine"
SIZE = 100_000
REQUEST_HITS = "job:mirror_request_hits:ratio_rate5m"
BYTE_HITS = "job:mirror_byte_hits:ratio_rate5m"


async def test_prometheus_answers_the_hit_ratios_with_what_clients_and_upstream_saw(
    tmp_path: Path,
) -> None:
    async with ScriptedRegistry() as upstream, _watched(tmp_path, upstream) as (mirror, prometheus):
        digest = upstream.add_blob(random_layer(SIZE, seed=1).blob, REPOSITORY)
        for _ in range(4):
            assert (await mirror.client.blob(REPOSITORY, digest)).digest == digest
        assert len(upstream.asked("blob", method="GET")) == 1
        await prometheus.says(REQUEST_HITS, pytest.approx(0.75))
        await prometheus.says(BYTE_HITS, pytest.approx(0.75))


async def test_every_query_of_the_dashboard_finds_data_once_images_were_pulled(
    tmp_path: Path,
) -> None:
    async with ScriptedRegistry() as upstream, _watched(tmp_path, upstream) as (mirror, prometheus):
        upstream.rate_limit = RateLimit()
        await _pull(mirror, upstream, "3.20", seed=1)
        await prometheus.sees("mirror_upstream_requests_total")
        # Only a series that has grown between two scrapes has a rate.
        await _pull(mirror, upstream, "3.21", seed=2)

        async def none_is_empty() -> bool:
            return await _empty_queries(prometheus) == []

        try:
            await until(none_is_empty, within=20)
        except TimeoutError:
            assert await _empty_queries(prometheus) == []
        assert await prometheus.label_values("mirror_upstream_up", "upstream") == ["docker.io"]


class Prometheus:
    """A running Prometheus' HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def query(self, expression: str) -> list[Any]:
        """The samples of an instant vector; `AssertionError` when the expression is wrong."""
        return list((await self._ask("query", query=expression))["result"])

    async def says(self, expression: str, value: object) -> None:
        """Return when the expression has one sample, of this value."""

        async def so() -> bool:
            return [float(sample["value"][1]) for sample in await self.query(expression)] == [value]

        try:
            await until(so, within=20)
        except TimeoutError:
            pytest.fail(f"{expression}: {await self.query(expression)}, not {value}")

    async def sees(self, expression: str) -> None:
        """Return when the expression has a sample."""

        async def has_a_sample() -> bool:
            return bool(await self.query(expression))

        await until(has_a_sample, within=20)

    async def label_values(self, metric: str, label: str) -> list[str]:
        """What Grafana's `label_values(metric, label)` asks for."""
        return list(await self._ask(f"label/{label}/values", **{"match[]": metric}))

    async def _ask(self, what: str, **parameters: str) -> Any:
        answer = await get(f"{self._url}/api/v1/{what}?{urlencode(parameters)}")
        assert answer.status == 200, f"{parameters}: {answer.body.decode()}"
        return json.loads(answer.body)["data"]


@asynccontextmanager
async def _watched(
    directory: Path, upstream: ScriptedRegistry
) -> AsyncIterator[tuple[Mirror, Prometheus]]:
    """A mirror of `upstream` as docker.io, and a Prometheus that has scraped it once."""
    require("prometheus")
    async with (
        running_mirror(directory / "mirror", {"docker.io": upstream_at(upstream.url)}) as mirror,
        _prometheus(directory / "prometheus", mirror.admin_host) as prometheus,
    ):
        await prometheus.sees('up{job="mirror"} == 1')
        yield mirror, prometheus


@asynccontextmanager
async def _prometheus(directory: Path, target: str) -> AsyncIterator[Prometheus]:
    address = f"127.0.0.1:{free_port()}"
    process = Process(
        (
            "prometheus",
            f"--config.file={_configuration(directory, target)}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={address}",
        ),
        log=directory / "prometheus.log",
        ready=partial(answers, f"http://{address}/-/ready"),
    )
    async with process:
        yield Prometheus(f"http://{address}")


def _configuration(directory: Path, target: str) -> Path:
    """The configuration that ships, only faster and with another target."""
    settings = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    settings["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in settings["rule_files"]]
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    directory.mkdir()
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings))
    return file


async def _pull(mirror: Mirror, upstream: ScriptedRegistry, tag: str, *, seed: int) -> None:
    """Pull an image that the mirror has never seen, and once more."""
    held = upstream.add(image(random_layer(SIZE, seed=seed)), REPOSITORY, tag)
    for _ in range(2):
        assert (await mirror.client.manifest(REPOSITORY, tag)).digest == held.digest
        for digest in held.blobs:
            assert (await mirror.client.blob(REPOSITORY, digest)).digest == digest


async def _empty_queries(prometheus: Prometheus) -> list[str]:
    """The dashboard's queries that find nothing, with Grafana's variables filled in."""
    dashboard = json.loads((DEPLOY / "grafana" / "mirror.json").read_text())
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
    assert queries
    variables = {"$__rate_interval": "10s", "$__range": "1h", "$upstream": "docker.io|quay.io"}
    empty = []
    for query in queries:
        expression = query
        for name, value in variables.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        if not await prometheus.query(expression):
            empty.append(query)
    return empty
