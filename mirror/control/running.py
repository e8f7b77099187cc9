"""Asking a mirror that runs, over its admin port."""

from collections.abc import AsyncGenerator, Sequence
from http import HTTPStatus

import aiohttp
import msgspec

from mirror.config.units import format_listen
from mirror.control.verify import Failed, Step

_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - who listens everywhere is here, too
_MOST = 2**16  # bytes of a line


async def verify_running(address: tuple[str, int], names: Sequence[str]) -> AsyncGenerator[Step]:
    """Have the mirror whose admin port is at `address` verify `names`; steps as it tells them."""
    host, port = address
    url = f"http://{format_listen((_HERE.get(host, host), port))}/api/v1/verify"
    patience = aiohttp.ClientTimeout(total=None, sock_connect=5)
    decode = msgspec.json.Decoder(Step).decode
    try:
        async with (
            aiohttp.ClientSession(timeout=patience, read_bufsize=_MOST) as session,
            session.post(url, json={"names": list(names)}) as answer,
        ):
            if answer.status != HTTPStatus.OK:
                yield Failed(f"{url} answers {answer.status}: {(await answer.text()).strip()}")
                return
            async for line in answer.content:
                yield decode(line)
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        yield Failed(f"a mirror uses the store, and {url} cannot be asked: {error}")
