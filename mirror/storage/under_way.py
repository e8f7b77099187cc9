"""What is under way, and who waits for it to be over. Pure."""

from collections.abc import Callable


class Change:
    """Something under way that others may have to wait for."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []
        self.is_over = False

    def then(self, wake: Callable[[], None]) -> None:
        """Have `wake` called when it is over."""
        if self.is_over:
            wake()
        else:
            self._waiting.append(wake)

    def end(self) -> None:
        """It is over."""
        self.is_over = True
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
