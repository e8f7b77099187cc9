import json

import pytest

from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.referrers import (
    add_referrers,
    filter_referrers,
    keep_referrers,
    list_referrers,
    merge_referrers,
)


def entry(name: str, **more: object) -> dict[str, object]:
    return {"mediaType": "a/b", "digest": f"sha256:{name * 64}", "size": 7, **more}


def page(*entries: object, **more: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **more, "manifests": entries}).encode()


def test_a_single_page_stays_as_it_came() -> None:
    content = page(entry("a")).replace(b" ", b"  ")
    assert merge_referrers([content]) == content


def test_all_pages_make_one_list_and_entries_keep_what_nobody_here_knows() -> None:
    entries = [entry("a", annotations={"x": "\u00e4"}), entry("b", artifactType=None), entry("c")]
    merged = merge_referrers(
        [page(entries[0], annotations={"k": "v"}), page(), page(entries[1], entries[2])]
    )
    assert json.loads(merged) == {
        "schemaVersion": 2, "annotations": {"k": "v"}, "manifests": entries
    }  # fmt: skip


def test_a_filter_leaves_those_of_its_type() -> None:
    wanted = entry("a", artifactType="a/b", data="x")
    content = page(entry("b"), wanted, entry("c", artifactType="a/bc"), mediaType="m/t")
    assert json.loads(filter_referrers(content, "a/b")) == {
        "schemaVersion": 2, "mediaType": "m/t", "manifests": [wanted]
    }  # fmt: skip


def test_of_a_list_some_are_kept_and_where_all_are_it_stays_as_it_came() -> None:
    first, second = entry("a", annotations={"x": "y"}), entry("b")
    content = page(first, second, mediaType="m/t").replace(b" ", b"  ")
    digests = [digest for digest, _ in list_referrers(content)]
    assert [str(digest) for digest in digests] == [first["digest"], second["digest"]]
    assert keep_referrers(content, digests) == content
    kept = json.loads(keep_referrers(content, digests[:1]))
    assert (kept["manifests"], kept["mediaType"]) == ([first], "m/t")


def test_to_a_list_what_it_has_not_is_added_once() -> None:
    content = page(entry("a", data="mine"), mediaType="m/t")
    assert add_referrers(content, page(entry("a", data="theirs"))) == content
    both = add_referrers(content, page(entry("a", data="theirs"), entry("b")))
    assert json.loads(both) == {
        "schemaVersion": 2, "mediaType": "m/t",
        "manifests": [entry("a", data="mine"), entry("b")],
    }  # fmt: skip


def test_what_is_called_by_an_unknown_algorithm_is_no_referrer_that_can_be_had() -> None:
    content = page({"digest": "blake3:" + "a" * 64}, {**entry("b"), "mediaType": 7}, entry("c"))
    found = [(digest.encoded[0], media_type) for digest, media_type in list_referrers(content)]
    assert found == [("b", ""), ("c", "a/b")]


def test_no_list_at_all_is_an_empty_one() -> None:
    content = b'{"schemaVersion": 2, "manifests": null}'
    assert json.loads(filter_referrers(content, "a/b"))["manifests"] == []
    assert json.loads(merge_referrers([content, page(entry("a"))]))["manifests"] == [entry("a")]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"<html>", b"[]", b"{}", b'{"errors": []}', b'{"manifests": 5}', b'{"manifests": [5]}',
        b'{"manifests": [{}]}', b'{"manifests": [{"digest": 1, "size": 1}]}', b"[" * 100_000,
        b'{"manifests": ' + b"[" * 100_000, b"\xff", page({**entry("a"), "artifactType": 5}),
    ],
)  # fmt: skip
def test_what_is_no_list_of_referrers_is_refused(content: bytes) -> None:
    with pytest.raises(RegistryError) as caught:
        merge_referrers([content])
    assert caught.value.code is ErrorCode.MANIFEST_INVALID
