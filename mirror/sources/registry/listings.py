"""Lists, as a registry's endpoint gives them: of tags, of what refers to a digest."""

from dataclasses import dataclass
from functools import partial
from urllib.parse import urlencode

from mirror.aio.reading import read_aside
from mirror.oci.digest import Digest
from mirror.oci.manifest import MAX_SIZE
from mirror.oci.request import Page
from mirror.sources.registry.endpoint import Endpoint, Scope
from mirror.sources.registry.headers import parse_next_query
from mirror.sources.registry.reading import Senseless
from mirror.sources.registry.tag_lists import TagsPage, read_tags

_LARGEST_LIST = 32 * 2**20  # bytes of a list of tags


@dataclass(frozen=True, slots=True)
class Referrers:
    """The index of what refers to a digest, as upstream sent it."""

    content: bytes
    filtered: bool  # upstream has applied the artifactType filter


async def list_tags(endpoint: Endpoint, scope: Scope, page: Page) -> TagsPage:
    """A page of the repository's tags. Raises as `Endpoint.ask`."""
    path = f"tags/list{_page_query(page)}"
    async with endpoint.ask("GET", path, scope, {}, kind="tags") as response:
        document = await endpoint.exchange.read(response, limit=_LARGEST_LIST)
        following = _next_query(response.headers.get("Link"))
    return await read_aside(partial(read_tags, following, page), document)


async def list_referrers(
    endpoint: Endpoint, scope: Scope, digest: Digest, artifact_type: str | None
) -> Referrers:
    """What refers to `digest`. Raises as `Endpoint.ask`."""
    query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
    path = f"referrers/{digest}{query}"
    async with endpoint.ask("GET", path, scope, {}, kind="referrers") as response:
        content = await endpoint.exchange.read(response, limit=MAX_SIZE)
        filters = response.headers.get("OCI-Filters-Applied", "")
        return Referrers(content, "artifactType" in filters)


def _page_query(page: Page) -> str:
    query = dict(page.extra)
    if page.n is not None:
        query["n"] = str(page.n)
    if page.last is not None:
        query["last"] = page.last
    return f"?{urlencode(query)}" if query else ""


def _next_query(link: str | None) -> dict[str, str] | None:
    try:
        return parse_next_query(link)
    except ValueError as error:
        raise Senseless("upstream's next page is at no address") from error
