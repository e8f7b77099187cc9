"""What becomes of a damaged file: it is noted beside it, and the next start sets it aside.

The note says of which file it is. Where another is in its place by then (somebody has restored a
backup), the note is out of date, and that one is used. So is one that was written to after a note
that nobody could bring up to date, because the mirror was killed: its damage shows again.
"""

from contextlib import suppress
from pathlib import Path

from mirror.sqlite import aside


def note(path: Path) -> None:
    """Have the next start set the file aside, as it is now. Raises OSError."""
    _note_of(path).write_text(_identify(path), encoding="ascii")


def is_noted(path: Path) -> bool:
    """Whether this very file is noted as damaged."""
    with suppress(OSError, UnicodeDecodeError):
        return _note_of(path).read_text(encoding="ascii") == _identify(path)
    return False


def forget(path: Path) -> bool:
    """There is nothing wrong with the file; whether there was a note."""
    try:
        _note_of(path).unlink()
    except OSError:  # there was none; or it stays, and is out of date
        return False
    return True


def set_aside(path: Path) -> None:
    """Rename it to `*.damaged`, for whoever wants to look; see `aside.py`. Raises OSError."""
    aside.set_aside(path, aside.DAMAGED)
    forget(path)


def _identify(path: Path) -> str:
    found = path.stat()
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


def _note_of(path: Path) -> Path:
    return Path(f"{path}.is-damaged")
