"""Looking at what is in the cache, and at what was pulled and why."""

from typing import Annotated

import typer

from mirror.cli.verbs import (
    FAILED,
    ConfigFile,
    Document,
    Image,
    Platform,
    cli,
    fail,
    load,
    look_after,
)


@cli.command()
def why(
    name: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE|DIGEST",
            help="Such as ghcr.io/org/app:1, a repository without a tag, or sha256:...",
        ),
    ],
    config_file: ConfigFile = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="The API's own words.")] = False,
) -> None:
    """Show the last pulls of an image, and why each was a hit, a miss or a failure.

    Of a digest, also where its bytes came from. Of a mirror that does not run, what it has written
    down. The status is 1 where there is no history to read.
    """
    from mirror.config import aliases_of  # noqa: PLC0415
    from mirror.operate.asking import NoAnswer  # noqa: PLC0415
    from mirror.operate.past import find_why, parse_pulled, show_why  # noqa: PLC0415

    loaded = load(config_file)
    try:
        wanted = parse_pulled(name, aliases_of(loaded.upstream))
        show_why(find_why(loaded, wanted), as_json=as_json)
    except (NoAnswer, ValueError) as error:
        fail(str(error), FAILED)


@cli.command()
def top(
    config_file: ConfigFile = None,
    *,
    since: Annotated[
        str, typer.Option(metavar="DURATION", help='For how long, such as "12h" or "7d".')
    ] = "7d",
    as_json: Annotated[bool, typer.Option("--json", help="The API's own words.")] = False,
) -> None:
    """Show what costs the line most, what was fetched more than once, and what for nobody.

    Of a mirror that does not run, what it has written down. The status is 1 where there is no
    history to read.
    """
    from mirror.config.units import parse_duration  # noqa: PLC0415
    from mirror.operate.asking import NoAnswer  # noqa: PLC0415
    from mirror.operate.past import find_waste, show_top  # noqa: PLC0415

    try:
        seconds = parse_duration(since)
        show_top(find_waste(load(config_file), seconds), as_json=as_json)
    except (NoAnswer, ValueError) as error:
        fail(str(error), FAILED)


@cli.command()
def ls(
    repository: Annotated[
        str | None, typer.Argument(help="Such as ghcr.io/org/app: its images. Else: repositories.")
    ] = None,
    config_file: ConfigFile = None,
    *,
    as_json: Document = False,
) -> None:
    """List what is in the cache, and what it takes: all of it, and what nothing else needs.

    This and the verbs below ask a running mirror, or else look into its store; nothing changes.
    """
    from mirror.operate import contents  # noqa: PLC0415

    look_after(contents.ls(load(config_file), repository, as_json=as_json))


@cli.command()
def du(
    config_file: ConfigFile = None,
    *,
    leaving: Annotated[
        bool, typer.Option("--next", help="What would go next to make room, and why.")
    ] = False,
    as_json: Document = False,
) -> None:
    """List repositories by what they alone take of the disk, the largest first."""
    from mirror.operate import contents, leaving as going  # noqa: PLC0415

    show = going.leaving if leaving else contents.du
    look_after(show(load(config_file), as_json=as_json))


@cli.command()
def inspect(
    image: Image,
    config_file: ConfigFile = None,
    *,
    platform: Platform = "",
    having: Annotated[
        str, typer.Option(metavar="IMAGE", help="What a host has already: what is left to load?")
    ] = "",
    as_json: Document = False,
) -> None:
    """Show what an image's tag means, its platforms, layers, their history, and who shares them.

    The status is 1 where it is not here.
    """
    from mirror.contents.questions import GetImage  # noqa: PLC0415
    from mirror.operate import contents  # noqa: PLC0415

    question = GetImage(image=image, platform=platform, having=having)
    look_after(contents.inspect(load(config_file), question, as_json=as_json))


@cli.command()
def files(
    image: Image,
    path: Annotated[str, typer.Argument(help="A directory or a file in it.")] = "/",
    config_file: ConfigFile = None,
    *,
    platform: Platform = "",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="All that is below it.")
    ] = False,
    as_json: Document = False,
) -> None:
    """List what is in an image, which layer has put it there, and what layers have removed.

    The status is 1 where a layer could not be read.
    """
    from mirror.contents.questions import ListFiles  # noqa: PLC0415
    from mirror.operate import contents  # noqa: PLC0415

    question = ListFiles(image=image, platform=platform, path=path, recursive=recursive)
    look_after(contents.files(load(config_file), question, as_json=as_json))


@cli.command()
def diff(
    image: Image,
    other: Image,
    path: Annotated[str, typer.Argument(help="Only what is below it.")] = "/",
    config_file: ConfigFile = None,
    *,
    platform: Platform = "",
    as_json: Document = False,
) -> None:
    """List the files that are another way in the other image, by type, mode, owner and content."""
    from mirror.contents.questions import DiffImages  # noqa: PLC0415
    from mirror.operate import contents  # noqa: PLC0415

    question = DiffImages(image=image, other=other, platform=platform, path=path)
    look_after(contents.diff(load(config_file), question, as_json=as_json))


@cli.command()
def compare(
    image: Image,
    config_file: ConfigFile = None,
    *,
    platform: Platform = "",
    pull: Annotated[
        bool, typer.Option("--pull", help="Where HEAD does not tell, GET: registries count that.")
    ] = False,
    as_json: Document = False,
) -> None:
    """Ask every endpoint what an image's tag means, and whether it has what is here.

    By a mirror that runs. The status is 1 where an endpoint that may say so says another thing.
    """
    from mirror.contents.questions import CompareImage  # noqa: PLC0415
    from mirror.operate import contents  # noqa: PLC0415

    question = CompareImage(image=image, platform=platform, pull=pull)
    look_after(contents.compare(load(config_file), question, as_json=as_json))
