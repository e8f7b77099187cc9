"""The page over HTTP: views, what keeps them up to date, and files that never change."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from importlib.resources import files
from types import MappingProxyType

from aiohttp import web

from mirror.control.guard import Guard
from mirror.control.page.views import OF_ONE, VIEWS, Views
from mirror.control.page.words import choose
from mirror.control.problems import Refusal
from mirror.control.watching import Watching

_REMEMBERED = 365 * 86400  # seconds for which a browser keeps the language

_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
            " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
)
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_page(application: web.Application, views: Views, guard: Guard, watching: Watching) -> None:
    """Show the page at `/`, to operators."""
    page = _Page(views, guard, watching, _read_assets())
    for path, handler in {
        "/": page.show,
        "/page/{view}": page.show,
        "/page/{view}/events": page.tell,
        "/static/{name}": page.send_asset,
    }.items():
        application.router.add_get(path, _guarded(handler, guard))


class _Page:
    def __init__(
        self, views: Views, guard: Guard, watching: Watching, assets: Mapping[str, bytes]
    ) -> None:
        self._views = views
        self._guard = guard
        self._watching = watching
        self._assets = assets

    async def show(self, request: web.Request) -> web.StreamResponse:
        view, language = _view_of(request), _language_of(request)
        text = await self._views.page(view, language, request.query, self._hidden(request))
        response = web.Response(text=text, content_type="text/html", headers=_HEADERS)
        if "lang" in request.query:
            response.set_cookie(
                "lang", language, max_age=_REMEMBERED, httponly=True, samesite="Strict"
            )
        return response

    async def tell(self, request: web.Request) -> web.StreamResponse:
        """What changes, again and again."""
        view, language = _view_of(request), _language_of(request)

        async def look() -> str:
            return await self._views.part(view, language, request.query, self._hidden(request))

        return await self._watching.tell(request, "part", look, _HEADERS)

    def _hidden(self, request: web.Request) -> str | None:
        """Why what is in the cache is not shown to who asks, if it is not."""
        try:
            self._guard.require_reader(request)
        except Refusal as refusal:
            return refusal.detail
        return None

    async def send_asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._assets:
            raise Refusal(HTTPStatus.NOT_FOUND, "there is no such file")
        kind = _TYPES[name[name.rindex(".") :]]
        headers = {**_HEADERS, "Content-Type": kind, "Cache-Control": "max-age=86400"}
        return web.Response(body=self._assets[name], headers=headers)


def _view_of(request: web.Request) -> str:
    view = request.match_info.get("view", "now")
    if view not in VIEWS and view not in OF_ONE:
        raise Refusal(HTTPStatus.NOT_FOUND, "there is no such page")
    return view


def _language_of(request: web.Request) -> str:
    wanted = request.query.get("lang") or request.cookies.get("lang")
    return choose(wanted, request.headers.get("Accept-Language"))


def _guarded(handler: _Handler, guard: Guard) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            await guard.require_operator(request)
            return await handler(request)
        except Refusal as refusal:
            headers = {**_HEADERS, **refusal.headers}
            return web.Response(status=refusal.status, text=f"{refusal.detail}\n", headers=headers)

    return handle


def _read_assets() -> dict[str, bytes]:
    folder = files("mirror.control.page") / "static"
    return {
        it.name: it.read_bytes()
        for it in folder.iterdir()
        if any(it.name.endswith(end) for end in _TYPES)
    }
