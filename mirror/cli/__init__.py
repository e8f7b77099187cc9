"""The command line: verbs only; each calls one function. In this order they are listed."""

# isort: off
from mirror.cli import running, looking, keeping, carrying, sharing, helping
from mirror.cli.verbs import cli

__all__ = ["carrying", "cli", "helping", "keeping", "looking", "main", "running", "sharing"]


def main() -> None:
    """Entry point."""
    cli()
