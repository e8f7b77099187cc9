"""`/`, as a browser asks for it: how to use this mirror, made by whoever has started it."""

import re

from aiohttp import web

_STANDS_FOR_US = "address-of-the-mirror.invalid:1"
_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
}


def welcome(request: web.BaseRequest, page: str, host: str) -> web.Response | None:
    """The page, with what the browser calls us: no client of registries accepts HTML.

    None: nobody asks for it, or has made one, or `host` is no name.
    """
    is_wanted = "text/html" in request.headers.get("Accept", "")
    if not is_wanted or not page or _HOST.fullmatch(host) is None:
        return None
    text = page.replace(_STANDS_FOR_US, host)
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)
