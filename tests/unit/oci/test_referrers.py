import json

import pytest

from mirror.oci.errors import ErrorCode, RegistryError
from mirror.oci.referrers import filter_referrers, merge_referrers


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
