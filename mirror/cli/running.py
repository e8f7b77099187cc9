"""Running the mirror, and seeing that it can run and that clients find it."""

import json
import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import tomli_w
import typer
import uvloop

from mirror import config
from mirror.cli.verbs import (
    FAILED,
    MISCONFIGURED,
    ConfigFile,
    Document,
    cli,
    fail,
    in_words,
    load,
    look_after,
    read_proxies,
)
from mirror.oci.errors import StoreError


@cli.command()
def serve(config_file: ConfigFile = None) -> None:
    """Run the mirror until it is told to stop."""
    # No other verb needs what serves.
    from mirror import app  # noqa: PLC0415
    from mirror.setup.clients import make_guides  # noqa: PLC0415
    from mirror.setup.welcome import make_welcome  # noqa: PLC0415

    loaded, proxies = load(config_file, opens_files=True), read_proxies()
    try:
        reread = partial(config.load, config_file)
        app.serve(loaded, proxies, reread, make_welcome, make_guides)
    except config.ConfigError as error:
        fail(str(error), MISCONFIGURED)
    except (StoreError, OSError) as error:
        fail(in_words(error), FAILED)


@cli.command()
def check(
    config_file: ConfigFile = None,
    *,
    online: Annotated[
        bool,
        typer.Option("--online", help="Ask what [shared] names, too: the database and the bucket."),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="As JSON: findings, what is in effect, and proxies."),
    ] = False,
) -> None:
    """Validate the configuration and the files it names; print what is in effect, without secrets.

    What is wrong goes to standard error; the status is 2 where the mirror cannot run like that.
    """
    # `serve` starts without the library that reads certificates.
    from mirror.doctor.examine import look, look_online  # noqa: PLC0415

    loaded, proxies = load(config_file, opens_files=True), read_proxies()
    findings = look(loaded)
    if online:
        findings += uvloop.run(look_online(loaded, proxies))
    is_wrong = any(finding.level == "error" for finding in findings)
    ways = [
        {
            "upstream": name, "endpoint": endpoint.url, "proxy": str(proxy),
            "is_of_environment": endpoint.proxy is None,
        }
        for name, upstream in loaded.upstream.items()
        for endpoint in upstream.asked
        if (proxy := proxies.find_for(endpoint.url, own=endpoint.proxy)) is not None
    ]  # fmt: skip
    if as_json:
        told = {
            "findings": [asdict(it) for it in findings],
            "configuration": loaded.redacted(),
            "proxies": ways,
        }
        typer.echo(json.dumps(told))
    else:
        for finding in findings:
            typer.echo(str(finding), err=True)
    if is_wrong:
        raise typer.Exit(MISCONFIGURED)
    if as_json:
        return
    typer.echo(tomli_w.dumps(loaded.redacted()), nl=False)
    for way in ways:
        of = " (of the environment)" if way["is_of_environment"] else ""
        typer.echo(f"# {way['endpoint']} is reached through the proxy {way['proxy']}{of}")


@cli.command()
def doctor(
    config_file: ConfigFile = None,
    *,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE",
            help="Pull the beginning of this one, such as ghcr.io/org/app:1; repeatable.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One finding a line, as JSON.")] = False,
) -> None:
    """Ask every endpoint what a pull would ask, and say what to fix; nothing is kept.

    Names, TLS, tokens, tags, redirects, ranges, rate and clock of each endpoint, and the store. Of
    Docker Hub a part of busybox is pulled, which counts as a pull. The status is 1 where something
    is wrong.
    """
    from mirror.doctor.examine import examine  # noqa: PLC0415
    from mirror.oci.image import parse_image  # noqa: PLC0415

    loaded, proxies = load(config_file, opens_files=True), read_proxies()
    logging.getLogger("mirror").addHandler(logging.NullHandler())  # the findings say it
    try:
        images = [parse_image(name, config.aliases_of(loaded.upstream)) for name in image or ()]
    except ValueError as error:
        fail(str(error), FAILED)

    async def report() -> bool:
        failed = False
        async for finding in examine(loaded, images, proxies):
            failed = failed or finding.level == "error"
            typer.echo(json.dumps(asdict(finding)) if as_json else str(finding))
        return failed

    if uvloop.run(report()):
        raise typer.Exit(FAILED)


@cli.command()
def setup(
    client: Annotated[
        str | None,
        typer.Argument(help="docker, containerd, podman, ...; without: all that are known."),
    ] = None,
    config_file: ConfigFile = None,
    *,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="At which clients reach the mirror: mirror.example, or a URL."
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The authority of its certificate, where hosts do not trust it yet.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print the configuration that makes a client pull through this mirror, ready to be pasted."""
    from mirror.setup.clients import CLIENTS, make_guide  # noqa: PLC0415

    if client is None:
        known = {name: title for name, (title, _) in CLIENTS.items()}
        lines = (f"{name:<11} {title}" for name, title in known.items())
        typer.echo(json.dumps(known) if as_json else "\n".join(lines))
        return
    try:
        guide = make_guide(client, load(config_file), address=address, ca_file=ca)
    except (ValueError, OSError) as error:
        fail(in_words(error), FAILED)
    typer.echo(json.dumps(asdict(guide)) if as_json else str(guide))


Upstream = Annotated[str, typer.Argument(help='Such as "docker.io".')]
OneEndpoint = Annotated[
    str | None,
    typer.Argument(metavar="ENDPOINT", help="Its name, URL or host; none: all of that upstream."),
]


@cli.command()
def pause(
    upstream: Upstream,
    endpoint: OneEndpoint = None,
    config_file: ConfigFile = None,
    *,
    as_json: Document = False,
) -> None:
    """Have the running mirror ask an endpoint nothing, until `mirror resume`; over restarts, too.

    A download that is under way there goes on to its end; a push goes no further. Other endpoints
    answer in its place; where there is none, what is cached is served, and clients turn to the
    registry for the rest. The status is 1 where there is no such endpoint.
    """
    from mirror.operate.pausing import pause  # noqa: PLC0415

    look_after(pause(load(config_file), upstream, endpoint, as_json=as_json))


@cli.command()
def resume(
    upstream: Upstream,
    endpoint: OneEndpoint = None,
    config_file: ConfigFile = None,
    *,
    as_json: Document = False,
) -> None:
    """Have the running mirror ask an endpoint again that was paused."""
    from mirror.operate.pausing import resume  # noqa: PLC0415

    look_after(resume(load(config_file), upstream, endpoint, as_json=as_json))


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

    running = RunningMirror(load(config_file))
    try:
        watch(running, once=once, as_json=as_json)
    except NoAnswer as error:
        fail(str(error), FAILED)
