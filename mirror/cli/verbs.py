"""What verbs share: their command, arguments that mean the same, and how they end."""

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import uvloop

from mirror import config
from mirror.control.units import printable
from mirror.oci.errors import StoreError

cli = typer.Typer(
    name="mirror",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # by default, [shared] is markup, and nothing is left of it
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"The configuration; else ${config.CONFIG_VARIABLE}, else Docker Hub on port 5000.",
    ),
]

Images = Annotated[list[str], typer.Argument(metavar="IMAGE", help="Such as ghcr.io/org/app:1.")]
Platforms = Annotated[
    list[str] | None,
    typer.Option(
        "--platform",
        metavar="OS/ARCH",
        help="Only this one, such as linux/arm64; repeatable. Else: all.",
    ),
]
ImageFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="With images: one a line, of a Compose file, or Kubernetes manifests; repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, one line for each.")]
Image = Annotated[str, typer.Argument(metavar="IMAGE", help="Such as ghcr.io/org/app:1.")]
Platform = Annotated[
    str,
    typer.Option(metavar="OS/ARCH", help="Such as linux/arm64; else the first one that is here."),
]
Document = Annotated[bool, typer.Option("--json", help="The API's own words.")]

FAILED, MISCONFIGURED = 1, 2
_TERMINATED = 128 + signal.SIGTERM  # as shells say it


def look_after(work: Coroutine[object, object, bool]) -> None:
    """Do it; the status is 1 where it says that all is not well, or cannot be done."""
    from mirror.operate.asking import NoAnswer  # noqa: PLC0415

    try:
        if not uvloop.run(_until_terminated(work)):
            raise typer.Exit(FAILED)
    except asyncio.CancelledError:
        raise typer.Exit(_TERMINATED) from None
    except (StoreError, NoAnswer) as error:
        fail(str(error), FAILED)


async def _until_terminated(work: Coroutine[object, object, bool]) -> bool:
    """Have SIGTERM end it as Ctrl-C does: in order, and with nothing left half done."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def load(path: Path | None, *, opens_files: bool = False) -> config.Config:
    """The configuration; what is wrong with it ends the program, in words.

    `opens_files`: for what works with the files that it names. Who asks a mirror, or looks into its
    store, needs no certificates of it, nor passwords at registries, and may not be let see them.
    """
    try:
        return config.load(path, opens_files=opens_files)
    except config.ConfigError as error:
        fail(str(error), MISCONFIGURED)


def read_proxies() -> config.EnvironmentProxies:
    """The proxies that the environment names; one that makes no sense ends the program."""
    try:
        return config.read_proxies()
    except config.ConfigError as error:
        fail(str(error), MISCONFIGURED)


def in_words(error: Exception) -> str:
    """What went wrong, without the number that a system's error has."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def fail(message: str, status: int) -> NoReturn:
    """End the program with a word on standard error, and this status."""
    lines = map(printable, message.split("\n"))  # it may quote a registry, or a bundle
    message = "\n".join(lines)
    typer.echo(f"mirror: {message}" if status == FAILED else message, err=True)
    raise typer.Exit(status)
