"""The command line: verbs only; each calls one function."""

import datetime as dt
import json
import sys
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import tomli_w
import typer
import uvloop

from mirror import __version__, app, config
from mirror.control.units import printable
from mirror.oci.errors import StoreError
from mirror.storage.files import InUse

cli = typer.Typer(
    name="mirror",
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

_FAILED, _MISCONFIGURED = 1, 2


@cli.command()
def serve(config_file: ConfigFile = None) -> None:
    """Run the mirror until it is told to stop."""
    from mirror.setup.welcome import make_welcome  # noqa: PLC0415

    loaded, proxies = _load(config_file), _read_proxies()
    try:
        uvloop.run(app.serve(loaded, proxies, partial(config.load, config_file), make_welcome))
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
        for endpoint in upstream.asked:
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
        guide = make_guide(client, _load(config_file), address=address, ca_file=ca)
    except (ValueError, OSError) as error:
        _fail(str(error), _FAILED)
    typer.echo(json.dumps(asdict(guide)) if as_json else str(guide))


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
    from mirror.operate.asking import NoAnswer  # noqa: PLC0415
    from mirror.operate.past import find_why, parse_pulled, show_why  # noqa: PLC0415

    try:
        wanted = parse_pulled(name)
        show_why(find_why(_load(config_file), wanted), as_json=as_json)
    except (NoAnswer, ValueError) as error:
        _fail(str(error), _FAILED)


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
        show_top(find_waste(_load(config_file), seconds), as_json=as_json)
    except (NoAnswer, ValueError) as error:
        _fail(str(error), _FAILED)


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
    from mirror.control.verify import parse_name, verify  # noqa: PLC0415
    from mirror.operate.asking import RunningMirror  # noqa: PLC0415
    from mirror.operate.at_rest import open_at_rest  # noqa: PLC0415
    from mirror.operate.progress import as_they_come, show  # noqa: PLC0415

    loaded, wanted = _load(config_file), names or []
    try:
        for name in wanted:
            parse_name(name)
    except ValueError as error:
        _fail(str(error), _FAILED)

    async def run() -> bool:
        try:
            async with (
                open_at_rest(loaded) as (store, records),
                aclosing(verify(store, records, wanted)) as steps,
            ):
                return await show(steps, what="verify", as_json=as_json)
        except InUse:
            told = as_they_come(RunningMirror(loaded).verify(wanted))
            return await show(told, what="verify", as_json=as_json)

    _look_after(run())


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

    The old index is kept as index.sqlite3.old. Which repository may have what is on record
    elsewhere; where that is lost too, upstream is asked when somebody pulls, and no layer is
    transferred again. Of images that are pinned or named here, it is asked when the mirror starts,
    so that they can be had in an outage. The status is 1 where anything is damaged or a mirror
    runs, and 2 where the configuration is wrong.
    """
    from mirror.control.verify import rebuild  # noqa: PLC0415
    from mirror.operate.at_rest import open_at_rest, require_store  # noqa: PLC0415
    from mirror.operate.progress import show  # noqa: PLC0415
    from mirror.operate.relinking import find_names, relink  # noqa: PLC0415
    from mirror.storage.rebuild import set_index_aside  # noqa: PLC0415

    loaded = _load(config_file)
    try:
        names = find_names(images or (), file or ())
    except (OSError, ValueError) as error:
        _fail(str(error), _FAILED)

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

    _look_after(run())


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
    _carry(run_export(_load(config_file), wanted))


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

    _carry(run_import(_load(config_file), bundle, as_json=as_json))


@cli.command()
def password(
    name: Annotated[str, typer.Argument(help="Of the user.")],
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
        typer.echo(make_line(name, secret))
    except ValueError as error:
        _fail(str(error), _FAILED)


@cli.command()
def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")],
) -> None:
    """Print what makes a shell complete verbs and options: source <(mirror completion bash)."""
    from mirror.operate.completion import SHELLS, script  # noqa: PLC0415

    if shell not in SHELLS:
        _fail(f"{shell} is not known; these are: {', '.join(SHELLS)}", _FAILED)
    verbs = typer.main.get_group(cli).commands
    options = {
        name: [it for one in verb.params for it in one.opts if it.startswith("--")] + ["--help"]
        for name, verb in verbs.items()
    }
    typer.echo(script(shell, options), nl=False)


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

    _look_after(keeping.pin(_load(config_file), images, platforms or (), as_json=as_json))


@cli.command()
def unpin(images: Images, config_file: ConfigFile = None) -> None:
    """Let images that were pinned by command go when there is need of room.

    The status is 1 where one stays pinned, or was not.
    """
    from mirror.operate import keeping  # noqa: PLC0415

    _look_after(keeping.unpin(_load(config_file), images))


@cli.command()
def pins(config_file: ConfigFile = None, *, as_json: AsJson = False) -> None:
    """List what is pinned, by the configuration and by command, and whether it is here."""
    from mirror.operate import keeping  # noqa: PLC0415

    _look_after(keeping.show_pins(_load(config_file), as_json=as_json))


@cli.command()
def rm(images: Images, config_file: ConfigFile = None, *, as_json: AsJson = False) -> None:
    """Remove images: what their tags mean is forgotten, and what nothing else needs is deleted.

    What is pinned is not removed. The status is 1 where one has not gone.
    """
    from mirror.operate import keeping  # noqa: PLC0415

    _look_after(keeping.remove(_load(config_file), images, as_json=as_json))


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

    _look_after(keeping.collect(_load(config_file), is_dry=dry_run, as_json=as_json))


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

    loaded = _load(config_file)
    try:
        wanted = [*(images or ()), *(it for path in file or () for it in read_images(path))]
        if not wanted:
            raise ValueError("name an image, or a --file")  # noqa: TRY301
        is_done = warm(RunningMirror(loaded), wanted, platforms or (), as_json=as_json)
    except (NoAnswer, OSError, ValueError) as error:
        _fail(str(error), _FAILED)
    if not is_done:
        raise typer.Exit(_FAILED)


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

    _look_after(contents.ls(_load(config_file), repository, as_json=as_json))


@cli.command()
def du(config_file: ConfigFile = None, *, as_json: Document = False) -> None:
    """List repositories by what they alone take of the disk, the largest first."""
    from mirror.operate import contents  # noqa: PLC0415

    _look_after(contents.du(_load(config_file), as_json=as_json))


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
    _look_after(contents.inspect(_load(config_file), question, as_json=as_json))


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
    _look_after(contents.files(_load(config_file), question, as_json=as_json))


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
    _look_after(contents.diff(_load(config_file), question, as_json=as_json))


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
    _look_after(contents.compare(_load(config_file), question, as_json=as_json))


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _carry(work: Coroutine[object, object, bool]) -> None:
    from mirror.operate.bundles.verbs import Failed  # noqa: PLC0415

    try:
        if not uvloop.run(work):
            raise typer.Exit(_FAILED)
    except Failed as error:
        _fail(str(error), _FAILED)


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
        version()
        raise typer.Exit


def _look_after(work: Coroutine[object, object, bool]) -> None:
    from mirror.operate.asking import NoAnswer  # noqa: PLC0415

    try:
        if not uvloop.run(work):
            raise typer.Exit(_FAILED)
    except (StoreError, NoAnswer) as error:
        _fail(str(error), _FAILED)


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
    lines = map(printable, message.split("\n"))  # it may quote a registry, or a bundle
    message = "\n".join(lines)
    typer.echo(f"mirror: {message}" if status == _FAILED else message, err=True)
    raise typer.Exit(status)
