"""A blob that is on this disk, for what publishes it."""

from dataclasses import dataclass
from io import FileIO

from mirror.oci.digest import Digest


@dataclass(eq=False)
class Kept:
    """Implements `mirror.storage.ports.OpenBlob`."""

    digest: Digest
    size: int
    file: FileIO

    def close(self) -> None:
        """Close it."""
        self.file.close()
