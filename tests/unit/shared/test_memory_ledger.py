"""The ledger in memory, which other tests take for the real one, does as the real one does."""

import pytest

from tests.conformance.ledger import PATIENCE, PRIVATE, TERM, LedgerConformance, Ledgers
from tests.support.memory_ledger import Book, MemoryLedger


class TestMemoryLedger(LedgerConformance):
    @pytest.fixture
    def ledgers(self) -> Ledgers:
        book = Book()

        async def lapse() -> None:
            book.now += TERM + 1

        async def stall() -> None:
            for row in book.rows.values():
                row.moved_at = book.now - PATIENCE - 1

        return Ledgers(
            MemoryLedger(book, "one", [PRIVATE]),
            MemoryLedger(book, "two", [PRIVATE]),
            MemoryLedger(book, "two", [PRIVATE], had_trouble=True),
            lapse,
            stall,
            MemoryLedger(book, "one", [PRIVATE]),
        )
