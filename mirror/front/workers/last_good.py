"""What certificates and passwords were when they last made sense, for workers that start later.

A worker that takes another's place while a file is being renewed, or after a mistake in it, goes
on with that: otherwise one mistake, and then one crash, would be the end of the mirror.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import structs

from mirror.front.settings import Files

Contents = dict[str, bytes]
"""By the setting that names the file."""


def read_files(files: Files) -> Contents:
    """What is in them now. Raises OSError."""
    return {name: Path(file).read_bytes() for name, file in files.named().items()}


@contextmanager
def instead(files: Files, contents: Contents) -> Iterator[Files]:
    """These, as files in memory that hold such contents, inside the block."""
    with ExitStack() as stack:
        paths = {name: stack.enter_context(_in_memory(it)) for name, it in contents.items()}
        yield structs.replace(files, **paths)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path to it, which only this process has."""
    descriptor = os.memfd_create("last good", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"
