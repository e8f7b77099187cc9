"""Layers as they are read, also those that somebody has made to do harm; and how they are laid."""

import gzip
import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, strategies as st

from mirror.contents import layer_tar
from mirror.contents.file_tree import Tree, compare
from mirror.contents.layer_program import Reader
from mirror.contents.layer_tar import Entry, Unreadable, read_layer
from tests.support.images import random_bytes

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def tar(
    *members: tuple[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None
) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if change is not None:
                change(member)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def read(path: Path, content: bytes) -> list[Entry]:
    path.write_bytes(content)
    return list(read_layer(str(path)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "layer"


def in_two(content: bytes) -> bytes:
    return gzip.compress(content[:700]) + gzip.compress(content[700:])


SKIPPED = b"\x5e\x2a\x4d\x18\x04\x00\x00\x00abcd"


def by_zstd(content: bytes) -> bytes:
    return zstd.compress(content)


def in_frames(content: bytes) -> bytes:
    """As zstd:chunked has it: frames, and what is skipped before, between and after them."""
    frames = zstd.compress(content[:700]), zstd.compress(content[700:])
    return SKIPPED + frames[0] + SKIPPED + frames[1] + SKIPPED


@pytest.mark.parametrize("pack", [bytes, gzip.compress, in_two, by_zstd, in_frames])
def test_plain_gzip_and_zstd_are_read_also_in_several_members(
    file: Path, pack: Callable[[bytes], bytes]
) -> None:
    found = read(
        file, pack(tar(("./a", b"1"), ("b/c", b"22"), ("b/.wh.x", b""), (".wh..wh..opq", b"")))
    )
    assert [(it.path, it.type, it.size) for it in found] == [
        ("/a", "-", 1), ("/b/c", "-", 2), ("/b/x", "x", 0), ("/", "o", 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x28\xb5\x2f\xfd" + b"0" * 100, "no whole tar archive"),
        (zstd.compress(tar(("a", random_bytes(5000, seed=1))))[:-30], "no whole tar archive"),
        (SKIPPED, "no whole tar archive"),
        (b"no archive" * 100, "no whole tar archive"),
        (b"", "no whole tar archive"),
        (gzip.compress(tar(("a", b"1" * 5000)), mtime=0)[:-30], "no whole tar archive"),
        (tar(("a", b"1" * 5000))[:2000], "no whole tar archive"),
        (tar(("../../etc/passwd", b"1")), "out of it"),
        (tar(("a" * 5000, b"1")), "more than 4096 characters"),
        (tar(("l", b""), change=lambda it: setattr(it, "linkname", "b" * 5000)), "more than 4096"),
    ],
)
def test_what_cannot_be_read_is_said_to_be_so(file: Path, content: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(file, content)


def test_a_bomb_is_put_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_tar, "MOST_BYTES", 2**20)
    with pytest.raises(Unreadable, match="unpacks to more"):
        read(file, gzip.compress(tar(("zeros", bytes(2**21)))))
    monkeypatch.setattr(layer_tar, "MOST_ENTRIES", 10)
    with pytest.raises(Unreadable, match="more than 10 entries"):
        read(file, tar(*((str(number), b"") for number in range(11))))


def test_a_bomb_of_zstd_is_put_out_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_tar, "MOST_BYTES", 2**20)
    with pytest.raises(Unreadable, match="unpacks to more"):
        read(file, zstd.compress(tar(("zeros", bytes(2**21)))))


def test_a_frame_that_wants_more_memory_than_clients_give_it_is_not_read(file: Path) -> None:
    packer = zstd.ZstdCompressor(options={int(zstd.CompressionParameter.window_log): 28})
    content = tar(("a", random_bytes(300_000, seed=1)))
    pieces = [content[at : at + 9999] for at in range(0, len(content), 9999)]
    packed = b"".join(map(packer.compress, pieces))
    with pytest.raises(Unreadable, match="too much memory"):
        read(file, packed + packer.flush())


def test_names_of_odd_bytes_are_told_as_text(file: Path) -> None:
    (found,) = read(file, tar(("caf\udce9\x1b[31m", b"")))
    assert found.path == "/caf\\xe9\x1b[31m"  # the terminal's part is for who prints it


def entry(path: str, kind: str = "-", size: int = 1) -> Entry:
    return Entry(path, kind, 0o644, 0, 0, size if kind == "-" else 0, 0.0, "", str(size))


def there(tree: Tree) -> set[str]:
    walked = tree.walk("/", recursive=True, removed=False)
    return {path for path, node in walked if not node.is_directory}


def test_what_a_layer_hides_is_of_lower_ones_wherever_it_says_so() -> None:
    tree = Tree(
        [
            [entry("/d", "d"), entry("/d/a"), entry("/d/b"), entry("/e/f"), entry("/g/h")],
            [entry("/d/new"), entry("/d", "o"), entry("/e", "x"), entry("/g")],
            [entry("/e/again")],
        ]
    )
    assert there(tree) == {"/d/new", "/e/again", "/g"}
    told = {path: node.versions[-1] for path, node in tree.walk("/", recursive=True, removed=True)}
    assert (told["/d/a"][0], told["/d/a"][1].type) == (1, "x")
    assert (told["/e/f"][0], told["/e/f"][1].type) == (1, "x")  # though its directory is there


_NAMES = st.sampled_from(["a", "b", "c"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
_LAYERS = st.lists(
    st.lists(st.tuples(_PATHS, st.sampled_from("-dxo")), max_size=6), max_size=4
)  # fmt: skip


def laid(layers: Iterable[list[tuple[str, str]]]) -> dict[str, str]:
    """The same, as simply as it can be said: a table of paths."""
    table: dict[str, str] = {}
    for layer in layers:
        for path, kind in layer:
            if kind in "xo":
                _hide(table, path)
            if kind == "x":
                table.pop(path, None)
        for path, kind in layer:
            if kind in "-d":
                _put(table, path, kind)
    return table


def _put(table: dict[str, str], path: str, kind: str) -> None:
    parts = path.split("/")[1:-1]
    for length in range(1, len(parts) + 1):
        table.setdefault("/" + "/".join(parts[:length]), "d")
    table[path] = kind
    if kind == "-":
        _hide(table, path)


def _hide(table: dict[str, str], path: str) -> None:
    for it in list(table):
        if it.startswith(f"{path}/"):
            del table[it]


@given(_LAYERS)
def test_layers_are_laid_as_the_spec_has_it(layers: list[list[tuple[str, str]]]) -> None:
    """What a file stands in the way of is nobody's business: no builder writes such a layer."""
    layers = [
        [(path, kind) for path, kind in layer if not _is_in_the_way(path, layers)]
        for layer in layers
    ]
    tree = Tree([[entry(path, kind) for path, kind in layer] for layer in layers])
    expected = laid(layers)
    found = {
        path: "d" if node.is_directory else "-"
        for path, node in tree.walk("/", recursive=True, removed=False)
    }
    assert found == expected
    assert tree.root.files == sum(kind == "-" for kind in expected.values())


def _is_in_the_way(path: str, layers: list[list[tuple[str, str]]]) -> bool:
    files = {it for layer in layers for it, kind in layer if kind == "-"}
    return any(path.startswith(f"{it}/") for it in files)


@given(_LAYERS, st.integers(1, 5))
def test_pages_together_are_the_whole(layers: list[list[tuple[str, str]]], limit: int) -> None:
    tree = Tree([[entry(path, kind) for path, kind in layer] for layer in layers])
    whole = [path for path, _ in tree.walk("/", recursive=True, removed=True)]
    pages, after = list[str](), ""
    while page := [path for path, _ in tree.walk("/", recursive=True, removed=True, after=after)][
        :limit
    ]:
        pages += page
        after = page[-1]
    assert pages == whole
    changes = [path for path, _ in compare(Tree([]), tree, "/")]
    rest, after = list[str](), ""
    while page := [path for path, _ in compare(Tree([]), tree, "/", after)][:limit]:
        rest += page
        after = page[-1]
    assert rest == changes


def test_a_layer_that_cannot_be_read_leaves_the_others(file: Path) -> None:
    file.write_bytes(tar(("a", b"1")))
    bad = file.with_name("bad")
    bad.write_bytes(b"\x28\xb5\x2f\xfd")
    asked = {
        "ask": "files", "layers": [["one", str(file)], ["two", str(bad)], ["three", ""]],
        "path": "/", "recursive": False, "removed": True, "after": "", "limit": 10,
    }  # fmt: skip
    answer = Reader().answer(asked)
    assert [it["path"] for it in answer["files"]] == ["/a"]
    assert [it.partition(":")[0] for it in answer["unread"]] == ["two", "three"]


@pytest.mark.parametrize(
    "said",
    [
        {"mtime": "nan"}, {"mtime": "inf"}, {"mtime": "1" + "0" * 400}, {"uid": "9" * 400},
        {"gid": "-5"},
        {
            "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1",
            "GNU.sparse.realsize": "9" * 400,
        },
    ],
    ids=["no number", "without end", "far away", "large", "negative", "holes"],
)  # fmt: skip
def test_numbers_without_sense_are_told_as_some_that_can_be(
    file: Path, said: dict[str, str]
) -> None:
    def change(member: tarfile.TarInfo) -> None:
        member.pax_headers = said

    [entry] = read(file, tar(("a", b"1"), change=change))
    told = msgspec.json.decode(json.dumps(entry), type=list[int | float | str])
    assert all(0 <= it < 2**63 for it in told if not isinstance(it, str))


def test_a_page_is_of_a_size_whatever_stood_in_the_place_of_its_files_before(
    tmp_path: Path,
) -> None:
    def change(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = tarfile.SYMTYPE, "\U0001f4a3" * 1000

    layers = []
    for number in range(9):
        (tmp_path / str(number)).write_bytes(
            tar(*((f"{name}", b"") for name in range(400)), change=change)
        )
        layers.append([str(number), str(tmp_path / str(number))])
    question = {
        "ask": "files", "layers": layers, "path": "/", "recursive": True, "removed": True,
        "limit": 1000,
    }  # fmt: skip
    reader, seen = Reader(), 0
    page = reader.answer(question | {"after": ""})
    while page["files"]:
        assert len(json.dumps(page)) < 16 * 2**20
        seen += len(page["files"])
        page = reader.answer(question | {"after": page["files"][-1]["path"]})
    assert seen == 400
