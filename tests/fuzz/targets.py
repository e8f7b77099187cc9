"""Everything that reads what a peer has sent: how to call it, and what it may raise.

Any other exception is a fault, and so is to take long, or memory that grows.
"""

import gzip
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mirror.oci.challenge import parse_challenges
from mirror.oci.digest import parse_digest
from mirror.oci.errors import RangeNotSatisfiable, RegistryError
from mirror.oci.large_manifest import read_large_manifest
from mirror.oci.manifest import parse_references
from mirror.oci.ranges import parse_content_range, parse_range, parse_unsatisfied_range
from mirror.oci.reference import parse_reference, parse_repository
from mirror.oci.request import Page, origin_form, parse_target
from mirror.pull.grants import life_of
from mirror.sources.registry.encoding import PIECE, Decoder
from mirror.sources.registry.headers import (
    field_value,
    parse_next_query,
    parse_quota,
    parse_retry_after,
)
from mirror.sources.registry.reading import Senseless
from mirror.sources.registry.response_head import LONGEST_HEAD, ResponseHead
from mirror.sources.registry.status import parse_errors
from mirror.sources.registry.tag_lists import read_tags
from mirror.sources.registry.tokens import parse_token, read_challenge

SIZE = 1_000  # bytes, of a blob of which ranges are asked


@dataclass(frozen=True, slots=True)
class Target:
    """A reader, what it may raise, and what is worth beginning with."""

    read: Callable[[bytes], object]
    raises: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def __call__(self, data: bytes) -> None:
        with suppress(*self.raises):
            self.read(data)


def _text(read: Callable[[str], object]) -> Callable[[bytes], object]:
    """As header fields and targets are decoded before anybody reads them."""
    return lambda data: read(data.decode("utf-8", "surrogateescape"))


def _read_range(text: str) -> None:
    wanted = parse_range(text)
    if wanted is not None:
        start, stop = wanted.resolve(SIZE)
        assert 0 <= start < stop <= SIZE


def _read_content_range(text: str) -> None:
    parse_unsatisfied_range(text)
    found = parse_content_range(text)
    assert found is None or 0 <= found.start < found.stop


def _read_next_query(text: str) -> None:
    for name, value in (parse_next_query(text) or {}).items():
        assert len(name) + len(value) <= len(text)


def _read_target(text: str) -> None:
    parse_target(origin_form(text, "mirror.example")[0])


def _read_challenges(text: str) -> None:
    for challenge in parse_challenges([text]):
        with suppress(Senseless):
            realm, _ = read_challenge(challenge.parameters)
            assert realm.scheme in {"http", "https"}


def _read_retry_after(text: str) -> None:
    date, _, header = text.partition("\n")
    wait = parse_retry_after(header, date=date)
    assert wait is None or 0 <= wait <= 7 * 86400
    parse_quota(text)
    value = field_value(text)
    assert value is None or value.isprintable()


def _read_head(data: bytes) -> None:
    """In pieces, whose length the first byte says."""
    head, step = ResponseHead(), data[0] + 1 if data else 1
    for start in range(1, len(data), step):
        found = head.feed(data[start : start + step])
        assert len(found) <= len(data) + len(b"\r") * data.count(b"\n") + len(b"Content-Length: ")
        if found:
            return
    assert len(data) <= LONGEST_HEAD


def _decode(data: bytes) -> None:
    decoder = Decoder("gzip")
    for piece in decoder.feed(data):
        assert len(piece) <= max(PIECE, len(data))
    decoder.end()


def _read_tags(data: bytes) -> None:
    for page in (Page(), Page(n=1), Page(n=2, last="1"), Page(n=0)):
        read_tags(None, page, data)


def _read_manifest(data: bytes) -> None:
    with suppress(RegistryError):
        parse_references(data)
    read_large_manifest(data, most=10)


_MANIFEST = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":'
    b'{"digest":"sha256:%b","size":1,"mediaType":"a/b"},"layers":[{"digest":"sha256:%b","size":2,'
    b'"urls":["http://a/"],"platform":{"os":"a","architecture":"b","variant":"c"}}],"manifests":[]}'
) % (b"a" * 64, b"b" * 64)

TARGETS = {
    "target": Target(
        _text(_read_target),
        (RegistryError,),
        (
            b"/v2/library/alpine/manifests/3.20?ns=docker.io",
            b"http://mirror.example/v2/a:5000/b/blobs/sha256%3A" + b"a" * 64,
            b"/v2/a/tags/list?n=5&last=x&next_page=%ff",
            b"/v2/a/referrers/sha256:" + b"a" * 64 + b"?artifactType=a/b",
        ),
    ),
    "reference": Target(
        _text(parse_reference), (RegistryError,), (b"3.20", b"sha512:" + b"a" * 128)
    ),
    "digest": Target(
        _text(parse_digest), (RegistryError,), (b"sha256:" + b"a" * 64, b"sha512:" + b"b" * 128)
    ),
    "repository": Target(_text(parse_repository), (RegistryError,), (b"library/a__b--c.d",)),
    "range": Target(
        _text(_read_range), (RangeNotSatisfiable,), (b"bytes=0-", b"bytes=-5", b"bytes=1-2")
    ),
    "content range": Target(
        _text(_read_content_range), (), (b"bytes 0-1/2", b"bytes 0-1/*", b"bytes */7")
    ),
    "challenge": Target(
        _text(_read_challenges),
        (),
        (b'Bearer realm="https://a.example/t?x=1",service="a:b:c", Basic realm="b"',),
    ),
    "link": Target(
        _text(_read_next_query), (ValueError,), (b'<https://a/v2/?n=1&last=b>; rel="next", <c>;d',)
    ),
    "retry after": Target(
        _text(_read_retry_after),
        (),
        (b"Sun, 06 Nov 1994 08:49:37 GMT\nSun, 06 Nov 1994 08:50:37 GMT", b"\n120", b"76;w=21600"),
    ),
    "response head": Target(
        _read_head,
        (ValueError,),
        (
            b"\x07HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200\r\nA : b\r\nContent-Length: 1, 1\r\n\r\nx",
            b"\xffHTTP/1.1 200\nTransfer-Encoding: chunked\nContent-Length: 5\n c\n\n",
        ),
    ),
    "token": Target(
        parse_token,
        (Senseless,),
        (b'{"token":"a","expires_in":300}', b'{"access_token":"b","expires_in":1e9}'),
    ),
    "life": Target(
        _text(lambda text: life_of(text, now=0.0)), (), (b"Bearer a.eyJleHAiOjEsImlhdCI6MH0.c",)
    ),
    "errors": Target(
        parse_errors, (), (b'{"errors":[{"code":"DENIED","message":"m","detail":1}]}',)
    ),
    "manifest": Target(_read_manifest, (RegistryError,), (_MANIFEST,)),
    "tags": Target(
        _read_tags, (Senseless,), (b'{"name":"a","tags":["1","2","3"]}', b'{"tags":null}')
    ),
    "encoding": Target(_decode, (ValueError,), (gzip.compress(b"{}" * 9, mtime=0),)),
}
