import pytest

from mirror.oci.digest import digest_of
from mirror.sources.ports import BlobSource
from tests.conformance.blob_source import BlobSourceConformance, Has
from tests.support.memory_source import MemorySource


class TestMemorySource(BlobSourceConformance):
    @pytest.fixture
    async def has(self) -> Has:
        sources: dict[bytes, BlobSource] = {}

        def has(content: bytes) -> BlobSource:
            return sources.setdefault(content, MemorySource({digest_of(content): content}))

        return has
