"""`mirror`, and `python -m mirror`."""

import sys

from mirror import __version__


def main() -> None:
    """Entry point. What asks for the version only waits for nothing else to be imported."""
    if sys.argv[1:] in (["--version"], ["version"]):
        sys.stdout.write(f"{__version__}\n")
        return
    from mirror.cli import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
