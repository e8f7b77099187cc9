"""The ledger of turns in memory: what `mirror.shared.ledger` does in SQL, by its own clock."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import count

from mirror.oci.digest import Digest
from mirror.oci.errors import StoreError
from mirror.shared.pieces import Piece
from mirror.shared.ports import Claimed, Copy

PATIENCE = 300.0  # seconds for which a turn may get nowhere


@dataclass(eq=False)
class Row:
    blob: int
    upstream: str
    digest: str
    epoch: int
    holder: str | None
    until: float
    moved_at: float
    size: int | None = None
    is_proved: bool = False
    pieces: dict[int, Piece] = field(default_factory=dict)


@dataclass(eq=False)
class Book:
    """What all mirrors share. `now` is its clock; while `is_down`, it cannot be asked."""

    now: float = 0.0
    patience: float = PATIENCE
    is_down: bool = False
    back_at: float | None = None
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    _blobs: Iterator[int] = field(default_factory=lambda: count(1))
    _epochs: Iterator[int] = field(default_factory=lambda: count(1))

    def of(self, blob: int, epoch: int | None = None) -> Row | None:
        """The row, where the turn of this epoch is the last that there was."""
        if self.is_down:
            raise StoreError("down")
        for row in self.rows.values():
            if row.blob == blob and (epoch is None or (row.epoch == epoch and not row.is_proved)):
                return row
        return None

    def begin(self) -> int:
        """A run of a mirror begins: turns of before, of its name, are nobody's."""
        return next(self._epochs)

    def claim(
        self, upstream: str, digest: str, holder: str, term: float, *, grace: float, began: int = 0
    ) -> Row | None:
        if self.is_down:
            raise StoreError("down")
        row = self.rows.get((upstream, digest))
        until = self.now + term
        if row is None:
            row = Row(
                next(self._blobs), upstream, digest, next(self._epochs), holder, until, self.now
            )
            self.rows[upstream, digest] = row
            return row
        if row.is_proved or not self.is_free(row, holder, grace=grace, began=began):
            return None
        row.epoch, row.holder, row.until = next(self._epochs), holder, until
        row.moved_at = self.now
        return row

    def is_free(self, row: Row, holder: str, *, grace: float = 0.0, began: int = 0) -> bool:
        """Whether this one may claim it, that `began` then."""
        is_over = row.until < self.now - grace or row.moved_at < self.now - self.patience
        was_its_own = row.holder == holder and row.epoch < began
        return row.holder is None or was_its_own or is_over

    def record(self, blob: int, epoch: int, piece: Piece) -> bool:
        row = self.of(blob, epoch)
        if row is not None:
            row.pieces[piece.start], row.moved_at = piece, self.now
        return row is not None

    def prove(self, blob: int, epoch: int, size: int, keys: Collection[str]) -> bool:
        row = self.of(blob, epoch)
        if row is None:
            return False
        position = 0
        for piece in sorted(row.pieces.values()):
            if piece.start != position or piece.key not in keys:
                return False
            position = piece.stop
        if position != size:
            return False
        row.is_proved, row.size, row.holder = True, size, None
        return True


@dataclass(eq=False)
class MemoryLedger:
    """A `mirror.shared.ports.Ledger` for the mirror `holder`; `private` are upstreams."""

    book: Book
    holder: str
    private: Collection[str] = ()
    had_trouble: bool = False
    _began: int | None = None

    @property
    def began(self) -> int:
        if self._began is None:
            self._began = self.book.begin()
        return self._began

    async def find(self, upstream: str, digest: Digest) -> Copy | None:
        if self.book.is_down:
            raise StoreError("down")
        began = self.began
        found = [
            row
            for row in self.book.rows.values()
            if row.digest == str(digest)
            and (row.upstream == upstream or (row.is_proved and row.upstream not in self.private))
        ]
        found.sort(key=lambda row: (not row.is_proved, row.upstream != upstream))
        return self._copy(found[0], 0, began) if found else None

    async def look(self, blob: int, after: int) -> Copy | None:
        row = self.book.of(blob)
        return None if row is None else self._copy(row, after, self.began)

    async def claim(
        self, upstream: str, digest: Digest, term: float, lease: float
    ) -> Claimed | None:
        grace = lease if self.had_trouble else 0.0
        row = self.book.claim(
            upstream, str(digest), self.holder, term, grace=grace, began=self.began
        )
        if row is None:
            return None
        return Claimed(row.blob, row.epoch, tuple(sorted(row.pieces.values())))

    async def renew(self, blob: int, epoch: int, term: float) -> bool:
        row = self.book.of(blob, epoch)
        if row is not None:
            row.until = self.book.now + term
        return row is not None

    async def tell_size(self, blob: int, epoch: int, size: int) -> bool:
        row = self.book.of(blob, epoch)
        if row is not None:
            row.size, row.moved_at = size, self.book.now
        return row is not None

    async def record(self, blob: int, epoch: int, piece: Piece) -> bool:
        return self.book.record(blob, epoch, piece)

    async def prove(self, blob: int, epoch: int, size: int, keys: Collection[str]) -> bool:
        return self.book.prove(blob, epoch, size, keys)

    async def join(self, blob: int, whole: Piece) -> bool:
        row = self.book.of(blob)
        if row is None or not row.is_proved:
            return False
        row.pieces = {whole.start: whole}
        return True

    async def release(self, blob: int, epoch: int) -> None:
        row = self.book.of(blob, epoch)
        if row is not None:
            row.holder, row.until = None, self.book.now

    async def abandon(self, blob: int, epoch: int | None) -> None:
        row = self.book.of(blob, epoch)
        if row is not None and (epoch is not None or row.is_proved):
            del self.book.rows[row.upstream, row.digest]

    def _copy(self, row: Row, after: int, began: int) -> Copy:
        is_free = self.book.is_free(row, self.holder, began=began)
        return Copy(
            row.blob, row.upstream, row.size, row.is_proved, not row.is_proved and is_free,
            tuple(piece for piece in sorted(row.pieces.values()) if piece.stop > after),
        )  # fmt: skip
