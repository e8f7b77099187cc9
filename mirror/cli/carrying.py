"""Carrying images from one mirror to another."""

import datetime as dt
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from mirror.cli.verbs import FAILED, ConfigFile, Images, cli, fail, load


@cli.command()
def export(
    images: Images,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="The bundle; -: standard output."),
    ],
    config_file: ConfigFile = None,
    *,
    platform: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OS/ARCH", help="Of an image for several; repeatable. Else all that are here."
        ),
    ] = None,
    base: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Leave out the layers of this bundle; repeatable."),
    ] = None,
    since: Annotated[
        dt.datetime | None,
        typer.Option(
            metavar="DATE",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
            help="Leave out the layers that were here before then, such as 2026-11-01 or"
            " 2026-11-01T18:30:00, of this machine's time.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One step a line, as JSON.")] = False,
) -> None:
    """Write images into a bundle: an OCI image layout in a tar, which skopeo and podman read too.

    What is exported has to be here; nothing is asked of upstream. By a mirror that runs, where one
    uses the store (over its admin port). The status is 1 where anything is missing, and 2 where
    the configuration is wrong.
    """
    from mirror.operate.bundles.verbs import Export, run_export  # noqa: PLC0415

    wanted = Export(
        images, platform or [], output, bases=base or [],
        since=0.0 if since is None else since.timestamp(), as_json=as_json,
    )  # fmt: skip
    _carry(run_export(load(config_file), wanted))


@cli.command("import")
def import_(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What mirror export, or another tool, has made."),
    ],
    config_file: ConfigFile = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One step a line, as JSON.")] = False,
) -> None:
    """Take the images of a bundle into the store; each blob is proved, and kept once.

    What was broken off is finished by doing it again. The status is 1 where an image of the bundle
    cannot be served now, and 2 where the configuration is wrong.
    """
    from mirror.operate.bundles.verbs import run_import  # noqa: PLC0415

    _carry(run_import(load(config_file), bundle, as_json=as_json))


def _carry(work: Coroutine[object, object, bool]) -> None:
    from mirror.operate.bundles.verbs import Failed  # noqa: PLC0415

    try:
        if not uvloop.run(work):
            raise typer.Exit(FAILED)
    except Failed as error:
        fail(str(error), FAILED)
