"""The image service of the Container Runtime Interface, asked as a kubelet asks a real containerd.

    python -m tests.support.cri SOCKET PullImage docker.io/library/hello:1

Its messages are few and small: they are written by hand (protobuf's wire format), so that no
generated code is needed. gRPC keeps descriptors for as long as its process lives, so that it has
one of its own.
"""

import re
import sys
from pathlib import Path

from tests.support.process import run

_ROOT = Path(__file__).parents[2]
_PATIENCE = 60.0  # seconds


class CriFailed(Exception):
    """The runtime says no."""


class Cri:
    """What a kubelet asks of the runtime at this socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def pull(self, image: str) -> str:
        """Pull an image; the digest of its configuration, which it is called by then."""
        return await self._ask("PullImage", image)

    async def remove(self, image: str) -> None:
        """Remove an image."""
        await self._ask("RemoveImage", image)

    async def _ask(self, method: str, image: str) -> str:
        command = (sys.executable, "-m", "tests.support.cri", self._socket, method, image)
        asked = await run("env", "-C", _ROOT, *command, check=False)
        if asked.returncode:
            raise CriFailed(asked.stderr)
        return asked.stdout.strip()


def _ask(socket: str, method: str, image: str) -> str:
    import grpc  # noqa: PLC0415 - in a process of its own only

    with grpc.insecure_channel(
        f"unix://{socket}", options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        call = channel.unary_unary(f"/runtime.v1.ImageService/{method}")
        try:
            answer: bytes = call(_first(_first(image.encode())), timeout=_PATIENCE)
        except grpc.RpcError as error:
            sys.exit(str(error.details()))
    found = re.search(rb"sha256:[0-9a-f]{64}", answer)
    return found[0].decode() if found else ""


def _first(content: bytes) -> bytes:
    """A message whose first field is this: a string, or another message."""
    assert len(content) < 2**7, "a length of one byte does"
    return bytes([0x0A, len(content)]) + content


if __name__ == "__main__":
    print(_ask(*sys.argv[1:]))  # noqa: T201 - that is what it is for
