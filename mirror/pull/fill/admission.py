"""When the readers of a fill are let in. Pure.

what comes                                               they are let in
nothing: it is empty                                     when it is proved
little, and of another size than was promised            when it is proved: a login page
very little, from a host that upstream has redirected    when it is proved, or it is more than
to, which may be anybody's                               that (where nobody tells its size)
something, where the fill before was given up            with the first new byte: until then
                                                         they can be told that there will be
                                                         none, and turn elsewhere; a body that
                                                         breaks tells them nothing
anything else                                            at once
"""

from mirror.pull.fill.sizes import Sizes
from mirror.sources.ports import Body

SMALL = 2**20  # bytes; so much is proved at once where it is suspicious, and always fetched whole
_FIRST = 2**16  # bytes from elsewhere that nobody reads before there are more of them, or a proof


class Admission:
    """What the readers of one fill wait for. `was_given_up`: the fill before was.

    `is_pending`: they may be let in by what comes next; `admits_after` is asked only then.
    """

    def __init__(self, *, was_given_up: bool) -> None:
        self.is_pending = False
        self._was_given_up = was_given_up
        self._is_held = False  # what there is came from elsewhere, and might be anything
        self._are_in = False

    def admits(self, body: Body, sizes: Sizes, *, written: int) -> bool:
        """Whether they are let in now that a body is taken, by its sizes; so much is there."""
        told = sizes.told
        if told == 0 or (sizes.is_odd and (told or 0) <= SMALL):
            return False
        is_first = not self._are_in and (told or written) <= _FIRST
        self._is_held = is_first and (body.is_from_elsewhere or self._is_held)
        if self._is_held or self._was_given_up:
            self.is_pending = True
            return False
        self._let_in()
        return True

    def admits_after(self, written: int) -> bool:
        """Whether they are let in now that more has come: so much is there."""
        self._was_given_up = False
        if self._is_held and written <= _FIRST:
            return False
        self._let_in()
        return True

    def _let_in(self) -> None:
        self._are_in = True
        self._is_held = self.is_pending = False
