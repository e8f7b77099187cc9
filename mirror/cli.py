"""The command line: verbs only; each calls one function."""

from pathlib import Path
from typing import Annotated, NoReturn

import tomli_w
import typer
import uvloop

from mirror import __version__, app, config
from mirror.oci.errors import StoreError

cli = typer.Typer(
    name="mirror",
    help="A pull-through caching mirror for container registries.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"The configuration; else ${config.CONFIG_VARIABLE}, else Docker Hub on port 5000.",
    ),
]

_FAILED, _MISCONFIGURED = 1, 2


@cli.command()
def serve(config_file: ConfigFile = None) -> None:
    """Run the mirror until it is told to stop."""
    loaded, proxies = _load(config_file), _read_proxies()
    try:
        uvloop.run(app.serve(loaded, proxies))
    except config.ConfigError as error:
        _fail(str(error), _MISCONFIGURED)
    except (StoreError, OSError) as error:
        _fail(str(error), _FAILED)


@cli.command()
def check(config_file: ConfigFile = None) -> None:
    """Validate the configuration; print what is in effect, without secrets."""
    loaded, proxies = _load(config_file), _read_proxies()
    typer.echo(tomli_w.dumps(loaded.redacted()), nl=False)
    for upstream in loaded.upstream.values():
        for endpoint in upstream.endpoints:
            proxy = proxies.find_for(endpoint.url, own=endpoint.proxy)
            if proxy is not None:
                of = "" if endpoint.proxy else " (of the environment)"
                typer.echo(f"# {endpoint.url} is reached through the proxy {proxy}{of}")


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point."""
    cli()


def _load(path: Path | None) -> config.Config:
    try:
        return config.load(path)
    except config.ConfigError as error:
        _fail(str(error), _MISCONFIGURED)


def _read_proxies() -> config.EnvironmentProxies:
    try:
        return config.read_proxies()
    except config.ConfigError as error:
        _fail(str(error), _MISCONFIGURED)


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"mirror: {message}" if status == _FAILED else message, err=True)
    raise typer.Exit(status)
