"""What helps whoever types commands."""

import json
import sys
from typing import Annotated, Any

import typer

from mirror import __version__
from mirror.cli.verbs import FAILED, cli, fail


@cli.command()
def password(
    name: Annotated[str, typer.Argument(help="Of the user.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: name and hash.")] = False,
) -> None:
    """Print a line for an htpasswd_file: the password is asked for twice, or read from a pipe."""
    from mirror.operate.passwords import make_line  # noqa: PLC0415

    piped = not sys.stdin.isatty()
    secret = (
        sys.stdin.readline().rstrip("\r\n")
        if piped
        else typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    )
    try:
        line = make_line(name, secret)
    except ValueError as error:
        fail(str(error), FAILED)
    told = dict(zip(("name", "hash"), line.split(":", 1), strict=True))
    typer.echo(json.dumps(told) if as_json else line)


@cli.command()
def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
) -> None:
    """Print what makes a shell complete verbs and options: source <(mirror completion bash)."""
    from mirror.operate.completion import SHELLS, script  # noqa: PLC0415

    if shell not in SHELLS:
        fail(f"{shell} is not known; these are: {', '.join(SHELLS)}", FAILED)
    verbs = typer.main.get_group(cli).commands
    options = {name: [*_words(verb), "--help"] for name, verb in verbs.items()}
    typer.echo(script(shell, options), nl=False)


def _words(verb: Any) -> list[str]:
    """What may follow a verb: its options; of several in one, also their names."""
    its = getattr(verb, "commands", {})
    words = dict.fromkeys(its)
    for one in (verb, *its.values()):
        words |= dict.fromkeys(it for option in one.params for it in option.opts)
    return [it for it in words if it.startswith("--") or it in its]


@cli.command()
def version(*, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Print the version."""
    typer.echo(json.dumps({"version": __version__}) if as_json else __version__)


@cli.callback()
def _of_no_verb(
    *,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True)
    ] = False,
) -> None:
    """A pull-through caching mirror for container registries.

    The status is 0 where all is well, 1 where something is wrong or no mirror answers, and 2 where
    the configuration, or the command itself, is wrong.
    """
    if show_version:
        typer.echo(__version__)
        raise typer.Exit
