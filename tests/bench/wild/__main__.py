"""`python -m tests.bench.wild`: how many kinds of things that others met are held, and by whom."""

import asyncio
import datetime as dt
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tests.bench import report
from tests.bench.figures import DOCKER, MIRROR
from tests.bench.run import ALL
from tests.bench.wild.kinds import Kind
from tests.bench.wild.seat import scene
from tests.bench.wild.table import ALL as KINDS
from tests.support.process import run

_SEATED = (MIRROR, DOCKER)
_LONGEST = 90  # seconds, one scene
_HERE = Path(__file__).parents[1]


def main(
    *,
    only: Annotated[list[str] | None, typer.Option(help="A kind's name; may be repeated.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Keep it for RESULTS.md.")] = False,
) -> None:
    """Put each into the mirror's seat, and play every scene."""
    kinds = [kind for kind in KINDS if not only or kind.name in only]
    found = asyncio.run(_played(kinds))
    if save:
        facts = {
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
            "commit": asyncio.run(_commit()),
        }
        text = json.dumps({**facts, "kinds": found}, indent=1, ensure_ascii=False)
        (_HERE / report.WILD).write_text(text + "\n", encoding="utf-8")
        bounds = {case.name: case.bound for case in ALL}
        report.write(_HERE, *report.read(_HERE / "RESULTS.json", bounds), name="RESULTS")


async def _commit() -> str:
    told = await run("git", "-C", str(_HERE), "rev-parse", "--short=12", "HEAD", check=False)
    return told.stdout.strip() or "unknown"


async def _played(kinds: list[Kind]) -> list[dict[str, object]]:
    console = Console()
    found: list[dict[str, object]] = []
    for kind in kinds:
        outcome = {who: await _outcome(kind, who) for who in _SEATED}
        found.append({"name": kind.name, "title": kind.title, "outcome": outcome})
        for who, why in outcome.items():
            console.print(f"{kind.name:<28} {who:<16} {why or 'held'}", highlight=False)
    for who in _SEATED:
        held = sum(not entry["outcome"][who] for entry in found)  # type: ignore[index]
        console.print(f"{who}: {held} of {len(found)}")
    return found


async def _outcome(kind: Kind, who: str) -> str:
    """Why a client is worse off than without; empty where it is not."""
    with tempfile.TemporaryDirectory(prefix="mirror-wild-") as directory:
        try:
            async with asyncio.timeout(_LONGEST), scene(who, Path(directory)) as stage:
                await kind.play(stage)
        except TimeoutError:
            return f"not within {_LONGEST} s"
        except Exception as error:  # noqa: BLE001 - whatever it was, the client has not got it
            return (str(error).splitlines() or [type(error).__name__])[0] or type(error).__name__
    return ""


if __name__ == "__main__":
    typer.run(main)
