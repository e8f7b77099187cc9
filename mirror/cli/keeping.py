"""Looking after what is in the cache."""

from contextlib import aclosing
from typing import Annotated

import typer

from mirror.cli.verbs import (
    FAILED,
    AsJson,
    ConfigFile,
    ImageFiles,
    Images,
    Platforms,
    cli,
    fail,
    in_words,
    load,
    look_after,
)
from mirror.storage.files import InUse


@cli.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE|DIGEST",
            help="Such as ghcr.io/org/app:1, with all that it consists of; none: everything.",
        ),
    ] = None,
    config_file: ConfigFile = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One step a line, as JSON.")] = False,
) -> None:
    """Hash what is stored, now; what is damaged is set aside, and fetched again when asked for.

    By a mirror that runs, where one uses the store (over its admin port). The status is 1 where
    anything is damaged, cannot be read or is not here, and 2 where the configuration is wrong.
    """
    from mirror.config import aliases_of  # noqa: PLC0415
    from mirror.control.verify import parse_name, verify  # noqa: PLC0415
    from mirror.operate.asking import RunningMirror  # noqa: PLC0415
    from mirror.operate.at_rest import open_at_rest  # noqa: PLC0415
    from mirror.operate.progress import as_they_come, show  # noqa: PLC0415

    loaded, wanted = load(config_file), names or []
    try:
        for name in wanted:
            parse_name(name)
    except ValueError as error:
        fail(str(error), FAILED)

    async def run() -> bool:
        try:
            async with (
                open_at_rest(loaded) as (store, records),
                aclosing(
                    verify(store, records, wanted, aliases=aliases_of(loaded.upstream))
                ) as steps,
            ):
                return await show(steps, what="verify", as_json=as_json)
        except InUse:
            told = as_they_come(RunningMirror(loaded).verify(wanted))
            return await show(told, what="verify", as_json=as_json)

    look_after(run())


@cli.command()
def rebuild(
    config_file: ConfigFile = None,
    *,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            metavar="IMAGE",
            help="Have upstream confirm this one, when it starts; repeatable.",
        ),
    ] = None,
    file: ImageFiles = None,
    as_json: Annotated[bool, typer.Option("--json", help="One step a line, as JSON.")] = False,
) -> None:
    """Make the index of a stopped mirror anew from the blobs on its disk, hashing each of them.

    The old index is kept as index.sqlite3.old for 30 days. Which repository may have what is on
    record elsewhere; where that is lost too, upstream is asked when somebody pulls, and no layer is
    transferred again. Of images that are pinned or named here, it is asked when the mirror starts,
    so that they can be had in an outage. The status is 1 where anything is damaged or a mirror
    runs, and 2 where the configuration is wrong.
    """
    from mirror.control.verify import rebuild  # noqa: PLC0415
    from mirror.operate.at_rest import open_at_rest, require_store  # noqa: PLC0415
    from mirror.operate.progress import show  # noqa: PLC0415
    from mirror.operate.relinking import find_names, relink  # noqa: PLC0415
    from mirror.storage.rebuild import set_index_aside  # noqa: PLC0415

    loaded = load(config_file)
    try:
        names = find_names(images or (), file or ())
    except (OSError, ValueError) as error:
        fail(in_words(error), FAILED)

    async def run() -> bool:
        await require_store(loaded.store.root)
        await set_index_aside(loaded.store.root)
        async with (
            open_at_rest(loaded) as (store, records),
            aclosing(rebuild(store, records)) as steps,
        ):
            is_well = await show(steps, what="rebuild", as_json=as_json)
            await relink(records.wishes, [*names, *(pin.name for pin in loaded.pin)])
            return is_well

    look_after(run())


@cli.command()
def pin(
    images: Images,
    config_file: ConfigFile = None,
    *,
    platforms: Platforms = None,
    as_json: AsJson = False,
) -> None:
    """Have images here before anybody asks, follow their tags, and never evict them.

    As a pin in the configuration does; it stays so over restarts. The status is 1 where one is not
    pinned.
    """
    from mirror.operate import keeping  # noqa: PLC0415

    look_after(keeping.pin(load(config_file), images, platforms or (), as_json=as_json))


@cli.command()
def unpin(images: Images, config_file: ConfigFile = None, *, as_json: AsJson = False) -> None:
    """Let images that were pinned by command go when there is need of room.

    The status is 1 where one stays pinned, or was not.
    """
    from mirror.operate import keeping  # noqa: PLC0415

    look_after(keeping.unpin(load(config_file), images, as_json=as_json))


@cli.command()
def pins(config_file: ConfigFile = None, *, as_json: AsJson = False) -> None:
    """List what is pinned, by the configuration and by command, and whether it is here."""
    from mirror.operate import keeping  # noqa: PLC0415

    look_after(keeping.show_pins(load(config_file), as_json=as_json))


@cli.command()
def rm(images: Images, config_file: ConfigFile = None, *, as_json: AsJson = False) -> None:
    """Remove images: what their tags mean is forgotten, and what nothing else needs is deleted.

    What is pinned is not removed. The status is 1 where one has not gone.
    """
    from mirror.operate import keeping  # noqa: PLC0415

    look_after(keeping.remove(load(config_file), images, as_json=as_json))


@cli.command()
def gc(
    config_file: ConfigFile = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete now what nothing on record names any more, and have the databases shrink.

    Blobs that no repository has, and nobody has asked for in the last hour; downloads that nobody
    continues; what is known of digests that were of no use for store.forget_after.
    """
    from mirror.operate import keeping  # noqa: PLC0415

    look_after(keeping.collect(load(config_file), is_dry=dry_run, as_json=as_json))


@cli.command()
def warm(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help='Such as ghcr.io/org/app:1, or "python:3.*-slim".'),
    ] = None,
    config_file: ConfigFile = None,
    *,
    file: ImageFiles = None,
    platforms: Platforms = None,
    as_json: AsJson = False,
) -> None:
    """Have the running mirror fetch images before anybody asks, and show how far it has come.

    Whatever clients wait for goes first. It goes on when you leave, and over restarts. The status
    is 1 where one of them is not here then; the others are fetched all the same.
    """
    from mirror.operate.asking import NoAnswer, RunningMirror  # noqa: PLC0415
    from mirror.operate.image_lists import read_images  # noqa: PLC0415
    from mirror.operate.warming import warm  # noqa: PLC0415

    loaded = load(config_file)
    try:
        wanted = [*(images or ()), *(it for path in file or () for it in read_images(path))]
        if not wanted:
            raise ValueError("name an image, or a --file")  # noqa: TRY301
        is_done = warm(RunningMirror(loaded), wanted, platforms or (), as_json=as_json)
    except (NoAnswer, OSError, ValueError) as error:
        fail(in_words(error), FAILED)
    if not is_done:
        raise typer.Exit(FAILED)
