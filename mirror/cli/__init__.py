"""The command line: verbs only; each calls one function. In this order they are listed."""

# isort: off
from mirror.cli import running, looking, keeping, carrying, helping
from mirror.cli.verbs import cli

__all__ = ["carrying", "cli", "helping", "keeping", "looking", "main", "running"]


def main() -> None:
    """Entry point."""
    cli()
