"""Lists, as a registry's endpoint gives them: of tags, of what refers to a digest."""

from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl, urlencode

import aiohttp

from mirror.aio.reading import read_aside
from mirror.oci.digest import Subject
from mirror.oci.errors import Missing, RegistryError, Unavailable
from mirror.oci.manifest import MAX_SIZE, OCI_INDEX
from mirror.oci.referrers import merge_referrers
from mirror.oci.request import Page
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.headers import parse_next_query
from mirror.sources.registry.reading import Senseless
from mirror.sources.registry.redirects import REDIRECTS
from mirror.sources.registry.tag_lists import TagsPage, read_tags

_LARGEST_LIST = 32 * 2**20  # bytes of a list of tags
_MOST_PAGES = 64  # of referrers, that are made one; more are asked for as upstream pages them


@dataclass(frozen=True, slots=True)
class Referrers:
    """What refers to a digest, and the query that leads to more where there is too much of it.

    `is_fallback`: as with tags.
    """

    content: bytes
    next_query: dict[str, str] | None
    is_fallback: bool = False


class NoList(Unavailable):
    """What a registry answers of referrers is something else: it does not know the question.

    registry.k8s.io leads to a login page. Who is there directly falls back to the tag then.
    """


async def list_tags(endpoint: Endpoint, scope: Scope, page: Page) -> TagsPage:
    """A page of the repository's tags. Raises as `Endpoint.ask`."""
    path = f"tags/list{_page_query(page)}"
    async with (
        endpoint.ask("GET", path, scope, {}, kind="tags") as response,
        endpoint.exchange.reading(response, limit=_LARGEST_LIST) as document,
    ):
        following = _next_query(response)
        if following is not None and following.get("n") == "0":
            del following["n"]  # as many as the registry likes, to GHCR; to all others: none
        return await read_aside(partial(read_tags, following, page), document)


async def list_referrers(
    endpoint: Endpoint, scope: Scope, subject: Subject, page: Page
) -> Referrers:
    """What refers to `subject`, from `page` on, through as many pages as make one answer.

    Of upstream's `Link` the query alone is followed, so that nobody else is asked. Raises as
    `Endpoint.ask`, and NoList.
    """
    pages: list[bytes] = []
    asked: set[str] = set()
    query, following = _page_query(page), None
    for _ in range(_MOST_PAGES):
        asked.add(query)
        try:
            content, following = await _referrers_page(endpoint, scope, subject, query)
        except Missing as error:
            if not pages:
                raise  # it knows no such list
            raise Senseless("upstream's next page is not there") from error
        if pages and sum(map(len, pages)) + len(content) > MAX_SIZE:
            return Referrers(_merged(pages), dict(parse_qsl(query[1:])))
        pages.append(content)
        if following is None:
            break
        query = f"?{urlencode(following)}"
        if query in asked:
            raise Senseless("upstream's next page is one that it has sent")
    return Referrers(_merged(pages), following)


def _merged(pages: list[bytes]) -> bytes:
    try:
        return merge_referrers(pages)
    except RegistryError as error:
        raise Senseless("upstream's list of referrers makes no sense") from error


async def _referrers_page(
    endpoint: Endpoint, scope: Scope, subject: Subject, query: str
) -> tuple[bytes, dict[str, str] | None]:
    path = f"referrers/{subject}{query}"
    try:
        async with endpoint.ask("GET", path, scope, {}, kind="referrers") as response:
            content = await endpoint.exchange.read(response, limit=MAX_SIZE)
            if response.content_type != OCI_INDEX:
                await read_aside(_require_list, content)
            return content, _next_query(response)
    except Unavailable as error:
        if error.status_seen in REDIRECTS:
            raise NoList(error.message) from error
        raise


def _require_list(content: bytes) -> None:
    try:
        merge_referrers([content])
    except RegistryError as error:
        raise NoList("upstream's list of referrers is something else") from error


def _next_query(response: aiohttp.ClientResponse) -> dict[str, str] | None:
    try:
        return parse_next_query(", ".join(response.headers.getall("Link", [])))
    except ValueError as error:
        raise Senseless("upstream's next page is at no address") from error


def _page_query(page: Page) -> str:
    query = dict(page.extra)
    if page.n is not None:
        query["n"] = str(page.n)
    if page.last is not None:
        query["last"] = page.last
    return f"?{urlencode(query)}" if query else ""
