"""Uploads that share what is alike, in whatever turns their bytes come: each ends as it was."""

from dataclasses import dataclass, field

from hypothesis import given, strategies as st

from mirror.push.following import Alike, Extend, Follow, decide

# Few letters, so that uploads are often alike for a while.
_BLOBS = st.lists(st.text("ab", min_size=1, max_size=8).map(str.encode), min_size=1, max_size=4)


@dataclass
class Spool:
    content: bytearray = field(default_factory=bytearray)
    is_closed: bool = False

    def compare(self, offset: int, piece: bytes) -> Alike:
        there = bytes(self.content[offset : offset + len(piece)])
        if offset > len(self.content) or not piece.startswith(there):
            return Alike(0, is_equal=False)
        return Alike(len(there), is_equal=True, is_closed=self.is_closed)


@dataclass
class Upload:
    blob: bytes
    position: int = 0
    followed: list[Spool] = field(default_factory=list)


def _write(upload: Upload, spools: list[Spool], length: int) -> int:
    """One piece, as `mirror.push.uploads` does it; the bytes that were written for it."""
    piece = upload.blob[upload.position : upload.position + length]
    followed = upload.followed or [spool for spool in spools if spool.content]
    chosen = decide(len(piece), [it.compare(upload.position, piece) for it in followed])
    written = 0
    if isinstance(chosen, Follow):
        upload.followed = [followed[place] for place in chosen.kept]
    elif isinstance(chosen, Extend):
        upload.followed = [followed[chosen.chosen]]
        upload.followed[0].content += piece[chosen.there :]
        written = len(piece) - chosen.there
    else:
        before = bytes(upload.followed[0].content[: upload.position]) if upload.followed else b""
        upload.followed = [Spool(bytearray(before + piece))]
        spools += upload.followed
        written = len(before) + len(piece)
    upload.position += len(piece)
    return written


@given(
    blobs=_BLOBS,
    turns=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=40),
    closed=st.integers(0, 3),
)
def test_what_an_upload_follows_begins_as_it_does(
    blobs: list[bytes], turns: list[tuple[int, int]], closed: int
) -> None:
    uploads, spools = [Upload(blob) for blob in blobs], list[Spool]()
    for turn, (which, length) in enumerate(turns):
        upload = uploads[which % len(uploads)]
        if upload.position < len(upload.blob):
            _write(upload, spools, length)
        if turn == 10 and spools:
            spools[closed % len(spools)].is_closed = True
        for each in uploads:
            for spool in each.followed:
                assert spool.content[: each.position] == each.blob[: each.position]


@given(blob=st.binary(min_size=1, max_size=30), cuts=st.lists(st.integers(1, 30), max_size=5))
def test_who_starts_over_again_and_again_writes_every_byte_once(
    blob: bytes, cuts: list[int]
) -> None:
    spools, written = list[Spool](), 0
    for stop in [*cuts, len(blob)]:
        upload = Upload(blob)
        while upload.position < min(stop, len(blob)):
            written += _write(upload, spools, 4 if upload.position + 4 <= stop else 1)
    assert written == len(blob)
    assert [bytes(spool.content) for spool in spools] == [blob]


def test_of_several_that_go_on_the_longest_is_extended() -> None:
    compared = [Alike(1, is_equal=True), Alike(3, is_equal=True), Alike(2, is_equal=True)]
    assert decide(5, compared) == Extend(1, 3)
