"""Token servers, asked by way of the mirror (`relay_tokens`), for hosts that cannot reach them.

The challenge that a client is given names an address of the mirror's own, the one that the client
itself has used; what it asks there is passed on, and what comes back is passed back.
"""

import asyncio
import re
from urllib.parse import quote

from aiohttp import web

from mirror.oci.challenge import with_realms
from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.request import TOKENS
from mirror.oci.token import MOST_OF_A_FORM, TokenAnswer, key_of, too_large

_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")


def relay_address(request: web.BaseRequest, scheme: str | None, upstream: str) -> str | None:
    """Where the client may ask for tokens; `{}` in it stands for the token server's key."""
    host = request.headers.get("Host", "")
    if scheme is None or _HOST.fullmatch(host) is None:
        return None
    return f"{scheme}://{host}{TOKENS}{{}}/{quote(upstream, safe=':')}"


def relayed(challenge: str, address: str) -> str:
    """The challenge, with the mirror's `address` in place of the token server's."""
    return with_realms(challenge, lambda realm: address.format(key_of(realm)))


async def read_form(request: web.BaseRequest, patience: float) -> bytes:
    """The body of a POST, for which the client has so many seconds.

    Raises:
        RegistryError: It is too large, or encoded.
        ConnectionError: It does not come, or cannot be read.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RegistryError(ErrorCode.UNSUPPORTED, "a form for a token server is sent as it is")
    form = bytearray()
    try:
        async with asyncio.timeout(patience):
            async for chunk in request.content.iter_any():
                form += chunk
                if len(form) > MOST_OF_A_FORM:
                    raise too_large()
    except TimeoutError as error:
        raise ConnectionError("it has not sent its form in time") from error
    except web.RequestPayloadError as error:
        raise ConnectionError("its form is none") from error
    return bytes(form)


def response_of(answer: TokenAnswer) -> web.Response:
    """What the token server has said; nobody is to keep it (RFC 9111, 5.2.2.5)."""
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if answer.retry_after is not None:
        headers["Retry-After"] = str(round(answer.retry_after))
    return web.Response(
        status=answer.status, body=answer.content, headers=headers,
        content_type="application/json" if answer.is_json else "text/plain",
    )  # fmt: skip


def not_relayed() -> RegistryError:
    """This mirror asks no token server for clients."""
    return RegistryError(
        ErrorCode.NAME_UNKNOWN, "this mirror asks no token server of that registry for clients"
    )
