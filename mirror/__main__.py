"""`mirror`, and `python -m mirror`."""

import errno
import os
import sys

from mirror import __version__

_FAILED, _INTERRUPTED = 1, 130  # as `mirror.cli.verbs` and shells say it
_OF_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


def main() -> None:
    """Entry point."""
    _have_standard_streams()
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # not by the interpreter, which would say that with a traceback
    except KeyboardInterrupt:  # before a verb has begun
        raise SystemExit(_INTERRUPTED) from None
    except OSError as error:
        if error.errno not in _OF_OUTPUT or error.filename:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left of it
        if error.errno != errno.EPIPE:
            sys.stderr.write(f"mirror: what it says cannot be written: {error.strerror}\n")
        raise SystemExit(_FAILED) from None


def _run() -> None:
    """What asks for the version only waits for nothing else to be imported."""
    if sys.argv[1:] in (["--version"], ["version"]):
        sys.stdout.write(f"{__version__}\n")
        return
    from mirror.cli import main as run  # noqa: PLC0415

    run()


def _have_standard_streams() -> None:
    """Each of the three takes what is written.

    One that is closed is had as /dev/null: else the next file that is opened would be it. A sign
    that a terminal's encoding has not is written as its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            flags = os.O_RDONLY if mode == "r" else os.O_WRONLY
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))
    if sys.stdout.encoding.lower() != "utf-8":
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
