from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.storage.ports import Storage
from tests.conformance.storage import ROOM, StorageConformance
from tests.unit.storage.opening import open_store


class TestLocalStorage(StorageConformance):
    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncIterator[Storage]:
        async with open_store(tmp_path, max_size=ROOM) as store:
            yield store
