"""The command line: verbs only; each calls one function."""

import json
from dataclasses import asdict
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
    """Validate the configuration and the files it names; print what is in effect, without secrets.

    What is wrong goes to standard error; the status is 2 where the mirror cannot run like that.
    """
    # `serve` starts without the library that reads certificates.
    from mirror.doctor.examine import look  # noqa: PLC0415

    loaded, proxies = _load(config_file), _read_proxies()
    findings = look(loaded)
    for finding in findings:
        typer.echo(str(finding), err=True)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(_MISCONFIGURED)
    typer.echo(tomli_w.dumps(loaded.redacted()), nl=False)
    for upstream in loaded.upstream.values():
        for endpoint in upstream.endpoints:
            proxy = proxies.find_for(endpoint.url, own=endpoint.proxy)
            if proxy is not None:
                of = "" if endpoint.proxy else " (of the environment)"
                typer.echo(f"# {endpoint.url} is reached through the proxy {proxy}{of}")


@cli.command()
def doctor(
    config_file: ConfigFile = None,
    *,
    image: Annotated[
        list[str] | None,
        typer.Option(help="Pull the beginning of this one, such as ghcr.io/org/app:1; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One finding a line, as JSON.")] = False,
) -> None:
    """Ask every endpoint what a pull would ask, and say what to fix; nothing is kept.

    Names, TLS, tokens, tags, redirects, ranges, rate and clock of each endpoint, and the store. Of
    Docker Hub a part of busybox is pulled, which counts as a pull. The status is 1 where something
    is wrong.
    """
    from mirror.doctor.examine import examine, parse_image  # noqa: PLC0415

    loaded, proxies = _load(config_file), _read_proxies()
    try:
        images = [parse_image(name) for name in image or ()]
    except ValueError as error:
        _fail(str(error), _FAILED)

    async def report() -> bool:
        failed = False
        async for finding in examine(loaded, images, proxies):
            failed = failed or finding.level == "error"
            typer.echo(json.dumps(asdict(finding)) if as_json else str(finding))
        return failed

    if uvloop.run(report()):
        raise typer.Exit(_FAILED)


@cli.command()
def status(
    config_file: ConfigFile = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The API's own words, once.")] = False,
) -> None:
    """Show what the running mirror is doing: the line, the store, endpoints and downloads.

    On a terminal it goes on until Ctrl-C. The status is 1 where no mirror answers.
    """
    # Other verbs start without what draws.
    from mirror.operate.asking import NoAnswer, RunningMirror  # noqa: PLC0415
    from mirror.operate.watch import watch  # noqa: PLC0415

    running = RunningMirror(_load(config_file))
    try:
        watch(running, once=once, as_json=as_json)
    except NoAnswer as error:
        _fail(str(error), _FAILED)


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
