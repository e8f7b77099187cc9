"""Bundles that somebody has made to do harm: refused in clear words, at little cost."""

import gzip
import json
import re
import tarfile
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from mirror.config import parse
from mirror.control.bundles import Depot
from mirror.oci.layout import BadLayout
from mirror.operate.bundles.archive import Archive
from mirror.operate.bundles.importing import import_bundle
from mirror.operate.bundles.steps import Imported, Meter, Moved
from mirror.operate.bundles.verbs import open_depot
from tests.support.bundles import (
    LAYOUT,
    files_of,
    index_json,
    member,
    path_of,
    write,
    write_members,
)
from tests.support.images import OCI_INDEX, Image, digest_of, image, index, random_layer
from tests.support.mirror import document

NAME = "docker.io/library/app:1"
APP = image(random_layer(5000, seed=1))
FILES = files_of({NAME: APP})

DEEP = b'{"manifests":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.fixture
async def depot(tmp_path: Path) -> AsyncIterator[Depot]:
    root = tmp_path / "store"
    (root / "blobs").mkdir(parents=True)
    config = parse(document({"docker.io": {"sealed": True, "deny": ["evil/*"]}}, store_root=root))
    async with open_depot(config) as opened:
        yield opened


async def take(depot: Depot, bundle: Path) -> list[Imported]:
    """What becomes of each image."""
    with Archive.open(bundle) as archive:
        steps = [step async for step in import_bundle(depot, archive, Meter())]
    return [step for step in steps if isinstance(step, Imported)]


def with_manifest(content: bytes, media_type: str = APP.media_type) -> list[tuple[str, bytes]]:
    made = Image(content, media_type)
    return [
        ("oci-layout", LAYOUT),
        ("index.json", index_json({NAME: made})),
        (path_of(made.digest), content),
    ]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (member("../../etc/passwd"), "leads out of it"),
        (member("blobs/../../../x"), "leads out of it"),
        (member("/etc/passwd"), "leads out of it"),
        (member("blobs/sha256", tarfile.SYMTYPE, link="/etc"), "is a link"),
        (member("index.json", tarfile.LNKTYPE, link="/etc/passwd"), "is a link"),
        (member("blobs/x", tarfile.CHRTYPE), "a device"),
        (member("1f/layer.tar"), "docker save made before Docker 25"),
        (member("1f/layer.tar", tarfile.SYMTYPE, link="../2f/layer.tar"), "skopeo copy docker-arc"),
        (member("blobs/x", tarfile.FIFOTYPE), "a device"),
        (member("blobs/x", tarfile.GNUTYPE_SPARSE, 10**15), "has holes|no tar|header"),
        (member(path_of(APP.digest), size=10**15), "cut off, or lies"),
        (member(path_of(APP.digest), size=-512), "no tar|cut off, or lies"),
        (member("blobs/sha256/abc"), "called by no digest"),
        (member("blobs/md5/" + "a" * 32), "called by no digest"),
        (member("x", tarfile.XHDTYPE, 2**30), "header in it is larger"),
        (member("x", tarfile.XGLTYPE, 2**30), "header in it is larger"),
        (member("x", tarfile.GNUTYPE_LONGNAME, 2**30), "header in it is larger"),
        (member("x", tarfile.XHDTYPE, -(2**20)), "header in it is larger|no tar|lies"),
    ],
)
def test_what_is_no_part_of_a_layout_is_refused_before_anything_is_read(
    tmp_path: Path, bad: tarfile.TarInfo, words: str
) -> None:
    bundle = write_members(tmp_path / "bundle.tar", [(bad, b"")])
    with bundle.open("ab") as file:
        file.truncate(2**31)  # there is enough to read for whoever believes it
    tracemalloc.start()
    with pytest.raises(BadLayout, match=words), Archive.open(bundle):
        pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**22


def test_headers_of_headers_without_end_are_refused(tmp_path: Path) -> None:
    record = b"18 path=aaaaaaaaaa\n"
    chain = [(member("x", tarfile.XHDTYPE, len(record)), record)] * 5000
    with pytest.raises(BadLayout), Archive.open(write_members(tmp_path / "bundle.tar", chain)):
        pass


def test_more_files_than_images_have_are_refused(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar"
    bundle.write_bytes(member("x").tobuf() * 100_001 + bytes(1024))
    with pytest.raises(BadLayout, match="more than 100000 files"), Archive.open(bundle):
        pass


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "has no oci-layout"),
        (FILES[:1], "has no index.json"),
        (FILES[1:], "has no oci-layout"),
        ([("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'), *FILES[1:]], "not known here"),
        ([FILES[0], ("index.json", b"<html>")], "is not JSON"),
        ([FILES[0], ("index.json", b"[]")], "no object"),
        ([FILES[0], ("index.json", DEEP)], "is not JSON"),
        ([FILES[0], ("index.json", b'{"manifests":[7]}')], "no descriptor"),
        ([FILES[0], ("index.json", b'{"manifests":[{"digest":"sha256:1"}]}')], "without a digest"),
        ([FILES[0], ("index.json", b'{"manifests":[%s{}]}' % (b"{}," * 20_000))], "more than"),
        ([FILES[0], ("index.json", b" " * 9_000_000)], "has 9000000 bytes"),
        ([*FILES, FILES[2]], "in it twice"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(
    tmp_path: Path, files: list[tuple[str, bytes]], words: str
) -> None:
    bundle = write(tmp_path / "bundle.tar", files)
    with pytest.raises(BadLayout, match=words), Archive.open(bundle) as archive:
        archive.layout()


def test_what_is_compressed_or_no_file_is_refused(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.tar", FILES).read_bytes()
    for content in (gzip.compress(plain), b"", b"x" * 5000, plain[:700]):
        bundle = tmp_path / "bundle.tar"
        bundle.write_bytes(content)
        with pytest.raises(BadLayout), Archive.open(bundle) as archive:
            archive.layout()
    with pytest.raises(BadLayout, match="is no file"), Archive.open(Path("/dev/zero")):
        pass


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_is_changed_in_a_bundle_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    bundle = tmp_path_factory.mktemp("bundle") / "bundle.tar"
    content = bytearray(write(bundle, FILES).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=16))
        content[start : start + len(piece)] = piece
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    bundle.write_bytes(content)
    try:
        with Archive.open(bundle) as archive:
            for digest in archive.digests:
                assert sum(map(len, archive.chunks(digest))) == archive.size_of(digest)
            archive.layout()
    except BadLayout:
        pass


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "named without its registry"),
        ("latest", "named without its registry"),
        ("library/app:1", "named without its registry"),
        ("docker.io/Library/APP:1", "not a repository name"),
        ("docker.io/library/app:../1", "not a repository name|no manifest can have this tag"),
        ("evil.example/app:1", "there is no"),
        ("docker.io/evil/app:1", "is not served"),
        (f"docker.io/library/app@{digest_of(b'other')}", "is not sha256"),
    ],
)
async def test_an_image_that_nobody_could_pull_by_its_name_is_not_imported(
    tmp_path: Path, depot: Depot, name: str, words: str
) -> None:
    bundle = write(tmp_path / "bundle.tar", files_of({name: APP, NAME: APP}))
    [refused, imported] = sorted(await take(depot, bundle), key=lambda it: it.outcome == "imported")
    assert refused.outcome == "refused"
    assert re.search(words, refused.reason), refused.reason
    assert (imported.image, imported.outcome) == (NAME, "imported")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (with_manifest(DEEP), "is no manifest"),
        (with_manifest(b"[" * 100_000), "is no manifest"),
        (with_manifest(b"{" + b" " * 5_000_000 + b"}"), "is called a manifest, and has 5000002"),
        (FILES[:2], "is not in the bundle"),
        (files_of({NAME: APP}, wrong={APP.digest: b"{}"}), "is something else"),
    ],
)
async def test_an_image_whose_manifest_is_none_is_not_imported(
    tmp_path: Path, depot: Depot, files: list[tuple[str, bytes]], words: str
) -> None:
    [refused] = await take(depot, write(tmp_path / "bundle.tar", files))
    assert refused.outcome == "refused"
    assert words in refused.reason


async def test_indexes_in_indexes_without_end_are_refused(tmp_path: Path, depot: Depot) -> None:
    nested = index(APP)
    for _ in range(6):
        nested = index(nested)
    [refused] = await take(depot, write(tmp_path / "bundle.tar", files_of({NAME: nested})))
    assert (refused.outcome, "indexes are in indexes" in refused.reason) == ("refused", True)


@pytest.mark.parametrize("outcome", ["imported", "incomplete"])
async def test_an_index_that_names_each_of_few_a_million_times_costs_little(
    tmp_path: Path, depot: Depot, outcome: str
) -> None:
    bomb, bombs = APP, list[Image]()
    for number in range(3):  # 4,000 ^ 3 ways lead to the bottom
        entry = {"mediaType": bomb.media_type, "digest": bomb.digest, "size": len(bomb.manifest)}
        content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] * 4000}
        bomb = Image(json.dumps(content | {"n": number}).encode(), OCI_INDEX)
        bombs.append(bomb)
    files = files_of({NAME: APP}, without=APP.layers if outcome == "incomplete" else ())
    files[1] = ("index.json", index_json({NAME: bomb}))
    files += [(path_of(it.digest), it.manifest) for it in bombs]
    [step] = await take(depot, write(tmp_path / "bundle.tar", files))
    assert step.outcome == outcome


async def test_many_ways_to_what_is_not_there_are_gone_once(tmp_path: Path, depot: Depot) -> None:
    level, everything = [APP], [APP]
    for depth in range(3):  # 400 ^ 2 ways
        entries = [
            {"mediaType": it.media_type, "digest": it.digest, "size": len(it.manifest)}
            for it in level
        ]
        content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        level = [
            Image(json.dumps(content | {"n": number}).encode(), OCI_INDEX)
            for number in range(400 if depth < 2 else 1)
        ]
        everything += level
    files = files_of({NAME: APP}, without=APP.layers)[:2]
    files[1] = ("index.json", index_json({NAME: level[0]}))
    files += [(path_of(it.digest), it.manifest) for it in everything]
    [step] = await take(depot, write(tmp_path / "bundle.tar", files))
    assert (step.outcome, set(step.missing)) == ("incomplete", {APP.config, *APP.layers})


async def test_a_blob_that_is_something_else_is_not_kept_and_its_image_is_not_on_record(
    tmp_path: Path, depot: Depot
) -> None:
    other = image(random_layer(5000, seed=2))
    [layer] = APP.layers
    files = files_of({NAME: APP, "docker.io/library/other:1": other}, wrong={layer: b"evil"})
    bundle = write(tmp_path / "bundle.tar", files)
    with Archive.open(bundle) as archive:
        steps = [step async for step in import_bundle(depot, archive, Meter())]
    damaged = [it.digest for it in steps if isinstance(it, Moved) and it.outcome == "damaged"]
    assert damaged == [layer]
    [bad, good] = [it for it in steps if isinstance(it, Imported)]
    assert (bad.outcome, bad.missing) == ("incomplete", [layer])
    assert (good.image, good.outcome) == ("docker.io/library/other:1", "imported")
    assert {path.name for path in (tmp_path / "store/blobs/sha256").glob("*/*")}.isdisjoint(
        {layer[7:]}
    )
    [again] = await take(depot, write(tmp_path / "right.tar", FILES))
    assert again.outcome == "imported"
