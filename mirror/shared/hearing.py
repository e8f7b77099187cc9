"""What a notification tells of a piece, so that nobody has to ask the database for it. Pure.

Anybody who may connect to the database may notify anything, and hears what is notified. So a word
is signed with what the database tells mirrors alone: where the keys of a turn's pieces begin, of
which 64 bits are random. A key is made of that, and never comes with a word.

    what is heard                               what who follows does
    a blob's number, and no more                looks
    a piece of a turn of which it has read      has that, where it has none yet; looks later
      one in the database, signed by that
    the same again, or late                     nothing, or looks, where it has another by now
    anything else (forged, or of a newer one)   looks

So who forges can have others look, and who listens learns numbers and lengths. What is told of has
been recorded: it may be late, or be lost, and nothing depends on it. Mirrors that know nothing of
it hear no number that is theirs, and look now and then.
"""

import hmac

from mirror.shared.pieces import Piece, Pieces, turn_of

_FIELDS = 3  # that are signed


def tell(blob: int, piece: Piece) -> str:
    """The word on a piece that is on record."""
    said = f"{blob} {piece.start} {piece.stop}"
    return f"{said} {_sign(said, turn_of(piece.key))}"


def is_about(word: str, blob: int | None) -> bool:
    """Whether it says that something has changed about this one."""
    return word.partition(" ")[0] == str(blob)


class Hearing:
    """What one follower believes of what it hears about a copy, for its `pieces`."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._turns = set[str]()  # that the database has told of

    def note_read(self, piece: Piece) -> None:
        """The database has told of this one."""
        self._turns.add(turn_of(piece.key))

    def hear(self, word: str) -> bool:
        """Have the piece that is told of; False: nothing is to be believed."""
        piece = self._read(word)
        if piece is None or not self._pieces.fits(piece):
            return False
        self._pieces.add(piece)
        return True

    def _read(self, word: str) -> Piece | None:
        said, _, signature = word.rpartition(" ")
        for turn in self._turns:
            if hmac.compare_digest(signature.encode(), _sign(said, turn).encode()):
                numbers = said.split()
                if len(numbers) != _FIELDS:
                    return None
                _, start, stop = map(int, numbers)
                return Piece(start, stop, f"{turn}/{start}")
        return None


def _sign(said: str, turn: str) -> str:
    return hmac.digest(turn.encode(), said.encode(), "sha256")[:16].hex()
