"""What a client may write, and what of it reaches the process that decides."""

import msgspec
from hypothesis import example, given, strategies as st

from mirror.config import parse
from mirror.front.workers.settings import settings_for_workers
from mirror.oci.digest import Subject
from mirror.oci.errors import RegistryError
from mirror.oci.reference import Reference, Repository
from mirror.oci.request import ManifestRequest, Page, ReferrersRequest, TagsRequest, parse_target
from mirror.pull.routing import Router

ENDPOINTS = [{"url": "https://registry.test"}]
ROUTER = Router(
    settings_for_workers(
        parse(
            {
                "upstream": {
                    "docker.io": {"default": True, "endpoints": ENDPOINTS},
                    "ghcr.io": {"endpoints": ENDPOINTS},
                }
            }
        )
    ).upstreams
)
PARTS = st.text("ab0", min_size=1, max_size=260)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
WHAT = st.one_of(
    st.text("aZ_.-9", max_size=130).map(lambda tag: f"manifests/{tag}"),
    st.tuples(
        st.sampled_from(["manifests", "referrers"]),
        st.text("ab+.3", min_size=1, max_size=600),
        st.text("aZ0=_-", min_size=1, max_size=600),
    ).map(lambda it: f"{it[0]}/{it[1]}:{it[2]}"),
    st.text("0123456789-x", max_size=12).map(lambda n: f"tags/list?n={n}&last={n}&x={n}"),
)


@given(
    prefix=st.sampled_from(["", "docker.io/", "ghcr.io/"]),
    name=NAMES,
    what=WHAT,
    ns=st.sampled_from(["", "docker.io", "ghcr.io", "x" * 300]),
)
@example(prefix="", name="a" * 255, what="manifests/1", ns="")
@example(prefix="docker.io/", name="a" * 245, what="manifests/1", ns="")
def test_whatever_a_client_may_ask_for_can_be_asked_of_the_other_process(
    prefix: str, name: str, what: str, ns: str
) -> None:
    """A worker that says what the other process cannot read is let go, with all its clients."""
    mark = "&" if "?" in what else "?"
    try:
        target = parse_target(
            f"/v2/{prefix}{name}/{what}{mark}ns={ns}" if ns else f"/v2/{prefix}{name}/{what}"
        )
        request = target.request
        assert isinstance(request, ManifestRequest | ReferrersRequest | TagsRequest)
        route = ROUTER.route(request.name, ns=target.ns, host="mirror.example")
    except RegistryError:
        return
    _passes(route.repository, Repository)
    match request:
        case ManifestRequest():
            _passes(request.reference, Reference)
        case ReferrersRequest():
            _passes(request.subject, Subject)
            _passes(request.page, Page)
        case TagsRequest():
            _passes(request.page, Page)


def _passes(value: object, kind: object) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind) == value
