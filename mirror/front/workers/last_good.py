"""What certificates and passwords were when they last made sense, for workers that start later.

A worker that takes another's place while a file is being renewed, or after a mistake in it, goes
on with that: otherwise one mistake, and then one crash, would be the end of the mirror.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mirror.config import Server

NAMES = ("tls_certificate_file", "tls_private_key_file", "client_ca_file", "htpasswd_file")

Contents = dict[str, bytes]
"""By the setting that names the file."""


def files_of(server: Server) -> dict[str, Path]:
    """Those of `NAMES` that are configured."""
    found = {name: getattr(server, name) for name in NAMES}
    return {name: file for name, file in found.items() if file is not None}


def read_files(server: Server) -> Contents:
    """What is in them now. Raises OSError."""
    return {name: file.read_bytes() for name, file in files_of(server).items()}


@contextmanager
def instead(settings: Mapping[str, Any], contents: Contents) -> Iterator[dict[str, Any]]:
    """The settings, with files in memory that hold these contents, inside the block."""
    with ExitStack() as stack:
        paths = {name: stack.enter_context(_in_memory(it)) for name, it in contents.items()}
        yield {**settings, "server": {**settings["server"], **paths}}


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path to it, which only this process has."""
    descriptor = os.memfd_create("last good", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{descriptor}"
