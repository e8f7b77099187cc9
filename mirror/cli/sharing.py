"""`mirror shared ...`: several mirrors that are one cache."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import typer
import uvloop

from mirror.cli.verbs import FAILED, ConfigFile, Document, cli, fail, load, read_proxies
from mirror.config.units import rounded_size
from mirror.oci.errors import StoreError

shared = typer.Typer(
    name="shared",
    no_args_is_help=True,
    add_completion=False,
    help="What several mirrors have in common ([shared]): its database and its bucket.",
)
cli.add_typer(shared)


@contextmanager
def _reaching() -> Iterator[ModuleType]:
    """What asks database and bucket, loaded only where it is asked for; says why they cannot be."""
    try:
        from mirror.operate import shared as operate  # noqa: PLC0415

        yield operate
    except ModuleNotFoundError as error:
        fail(f"[shared] needs {error.name}: pip install '.[shared]' in its checkout", FAILED)
    except StoreError as error:
        fail(str(error), FAILED)


@shared.command()
def init(config_file: ConfigFile = None, *, as_json: Document = False) -> None:
    """Make in database and bucket what mirrors need, or bring it up to date.

    Mirrors see to that themselves when they start; this says beforehand whether they can.
    """
    with _reaching() as operate:
        deployment = uvloop.run(operate.init(load(config_file, opens_files=True), read_proxies()))
    typer.echo(
        json.dumps({"deployment": str(deployment)})
        if as_json
        else f"database and bucket belong to deployment {deployment}"
    )


@shared.command()
def status(config_file: ConfigFile = None, *, as_json: Document = False) -> None:
    """Show whose database and bucket are, which mirrors belong to them, and what there is."""
    with _reaching() as operate:
        found = uvloop.run(operate.status(load(config_file, opens_files=True), read_proxies()))
    typer.echo(json.dumps(found) if as_json else "\n".join(operate.in_words(found)))


@shared.command()
def sweep(config_file: ConfigFile = None, *, as_json: Document = False) -> None:
    """Remove from the bucket what belongs to nothing on record; mirrors do so once a day.

    That is what mirrors have left that died in the middle; only what is older than a day.
    """
    with _reaching() as operate:
        swept = uvloop.run(operate.sweep_now(load(config_file, opens_files=True), read_proxies()))
    typer.echo(
        json.dumps(swept._asdict())
        if as_json
        else f"{swept.looked_at} objects, {swept.removed} of them removed:"
        f" {rounded_size(swept.removed_bytes)}"
    )
