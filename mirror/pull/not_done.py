"""What an operator asks for and is not done: in words that say what would help."""


class NotDone(Exception):
    """It cannot be done as things are."""


class NothingHere(NotDone):
    """There is nothing of that name."""
