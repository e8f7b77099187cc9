"""Opening blobs, while everything else goes on."""

import asyncio
from pathlib import Path
from typing import Any

from mirror.oci.digest import Digest, digest_of
from mirror.storage.files import SizedFile
from mirror.storage.open_files import OpenFiles
from mirror.storage.openings import Openings
from mirror.storage.states import PartialKey, States

CONTENT = b"content"
DIGEST = digest_of(CONTENT)


class Gated:
    """Files, index and adoption at once: each opening of the file waits for its own gate."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gates: list[asyncio.Event] = []
        self.opened: list[SizedFile] = []

    async def open(self, _: Digest) -> SizedFile:
        gate = asyncio.Event()
        self.gates.append(gate)
        await gate.wait()
        self.opened.append(SizedFile(self.path))
        return self.opened[-1]

    async def find(self, _: Digest) -> tuple[int, bool]:
        return len(CONTENT), True

    async def look_for(self, _: list[Digest]) -> None:
        return


async def until_asked(gated: Gated, times: int) -> None:
    async with asyncio.timeout(10):
        while len(gated.gates) < times:  # noqa: ASYNC110 - it is but a few turns of the loop
            await asyncio.sleep(0)


async def test_an_opening_that_came_to_nothing_joins_who_was_faster(tmp_path: Path) -> None:
    """The blob is committed anew while its file is being opened, and opened by somebody else."""
    (tmp_path / "blob").write_bytes(CONTENT)
    gated: Any = Gated(tmp_path / "blob")
    opened = OpenFiles()
    states = States(opened)
    openings = Openings(
        files=gated, opened=opened, index=gated, states=states, adoption=gated, damage=gated,
        clock=lambda: 0.0,
    )  # fmt: skip
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        slow = tasks.create_task(openings.open(DIGEST))
        await until_asked(gated, 1)
        partial = states.begin_writer(PartialKey("docker.io", DIGEST))
        states.end_opening_of_writer(partial)
        states.begin_commit(partial)
        states.end_commit(partial, is_stored=True)
        fast = tasks.create_task(openings.open(DIGEST))
        await until_asked(gated, 2)
        gated.gates[1].set()
        read = await fast
        gated.gates[0].set()
    assert read is not None
    assert slow.result() is read
    assert len(gated.gates) == 2, "what is open already is not opened once more"
    for _ in range(2):
        read.close()
    for blob in opened.close_pool():
        blob.file.close()
    assert all(file.closed for file in gated.opened)
