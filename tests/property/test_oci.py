"""The grammars hold for any input: it is read, or refused with a RegistryError; nothing else."""

import json
import string

from hypothesis import example, given, strategies as st

from mirror.oci.digest import Digest, digest_of, parse_digest
from mirror.oci.errors import RangeNotSatisfiable, RegistryError
from mirror.oci.manifest import is_media_type, parse_references
from mirror.oci.ranges import parse_content_range, parse_range
from mirror.oci.reference import Tag, parse_reference, parse_repository
from mirror.oci.request import BlobRequest, ManifestRequest, TagsRequest, parse_target

WORD = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
COMPONENT = st.builds(
    lambda first, rest: first + "".join(mark + word for mark, word in rest),
    WORD | st.sampled_from(["blobs", "manifests", "tags", "referrers", "list", "v2"]),
    st.lists(st.tuples(st.sampled_from([".", "_", "__", "-", "---"]), WORD), max_size=2),
)
NAMES = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)
DIGESTS = st.binary().map(digest_of) | st.from_regex(r"[a-f0-9]{128}", fullmatch=True).map(
    lambda encoded: Digest("sha512", encoded)
)
# Text of any kind, and text that comes close.
TEXTS = st.text() | st.text("/:%.?=&-_ab2v0A\n", max_size=40)
TARGETS = TEXTS | st.builds("/v2/{}/{}/{}".format, TEXTS, st.sampled_from(["blobs", "tags"]), TEXTS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["layers", "config", "digest", "size", "platform", "mediaType"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
)


@given(DIGESTS)
def test_a_digest_survives_being_written_and_read(digest: Digest) -> None:
    assert parse_digest(str(digest)) == digest


@given(st.binary(), st.binary())
def test_a_digest_names_its_content_alone(content: bytes, other: bytes) -> None:
    assert digest_of(content).names(other) == (content == other)


@given(NAMES, TAGS)
def test_a_manifest_is_found_by_any_name_and_tag(name: str, tag: str) -> None:
    assert parse_target(f"/v2/{name}/manifests/{tag}").request == ManifestRequest(name, Tag(tag))


@given(NAMES, DIGESTS)
def test_content_is_found_by_any_name_and_digest(name: str, digest: Digest) -> None:
    assert parse_target(f"/v2/{name}/blobs/{digest}").request == BlobRequest(name, digest)
    assert parse_target(f"/v2/{name}/manifests/{digest}").request == ManifestRequest(name, digest)


@given(NAMES)
def test_tags_are_listed_for_any_name(name: str) -> None:
    request = parse_target(f"/v2/{name}/tags/list").request
    assert isinstance(request, TagsRequest)
    assert request.name == name


@given(TEXTS)
@example("sha256:" + "a" * 64 + "\n")
def test_any_text_is_a_value_that_reads_as_that_text_or_is_refused(text: str) -> None:
    for parse in (parse_digest, parse_reference, parse_repository):
        try:
            assert str(parse(text)) == text
        except RegistryError as error:
            assert 400 <= error.status < 500  # noqa: PT017 - either outcome is right


@given(TARGETS)
@example("/v2/a/tags/list?n=" + "9" * 5000)
@example("/v2/?ns=%ff%00")
def test_any_request_target_is_understood_or_refused(target: str) -> None:
    try:
        parse_target(target)
    except RegistryError as error:
        assert 400 <= error.status < 500  # noqa: PT017 - either outcome is right


@given(st.binary() | JSON.map(lambda document: json.dumps(document).encode()))
def test_any_bytes_are_a_manifest_or_refused(content: bytes) -> None:
    try:
        references = parse_references(content)
    except RegistryError:
        return
    assert references.media_type is None or is_media_type(references.media_type)
    assert all(0 <= descriptor.size < 2**63 for descriptor in references)


@given(st.text() | st.from_regex(r"bytes=[0-9]{0,20}-[0-9]{0,20}", fullmatch=True), st.integers(0))
def test_any_range_is_ignored_or_lies_within_the_content(header: str, size: int) -> None:
    requested = parse_range(header)
    if requested is None:
        return
    try:
        start, stop = requested.resolve(size)
    except RangeNotSatisfiable as error:
        assert error.size == size  # noqa: PT017 - either outcome is right
    else:
        assert 0 <= start < stop <= size


@given(st.integers(0, 10**18), st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_content_range_is_read_as_it_was_meant(start: int, length: int, beyond: int) -> None:
    stop, size = start + length, start + length + beyond
    found = parse_content_range(f"bytes {start}-{stop - 1}/{size}")
    assert found is not None
    assert (found.start, found.stop, found.size) == (start, stop, size)
