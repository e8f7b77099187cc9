"""Registries as targets of pushes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.oci.reference import Repository
from tests.conformance.target import TargetConformance, TargetOf
from tests.support.edge import registry_at
from tests.support.registry import running_registry
from tests.support.uploads import Pushes
from tests.support.upstream import ScriptedRegistry


class TestDistribution(TargetConformance):
    """A real one."""

    @pytest.fixture
    async def target_of(self, tmp_path: Path) -> AsyncIterator[TargetOf]:
        async with (
            running_registry(tmp_path / "registry") as there,
            registry_at(there.url) as registry,
        ):
            yield lambda name: registry.target(Repository("hub", name))


class TestScripted(TargetConformance):
    """One that takes pushes as distribution 2.8 and 3 do."""

    @pytest.fixture(params=["2.8", "3"])
    async def target_of(
        self, upstream: ScriptedRegistry, request: pytest.FixtureRequest
    ) -> AsyncIterator[TargetOf]:
        upstream.push = Pushes(style=request.param)
        async with registry_at(upstream.url) as registry:
            yield lambda name: registry.target(Repository("hub", name))
