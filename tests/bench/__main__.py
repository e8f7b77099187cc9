"""`python -m tests.bench`: measure the mirror against its peers, and print the tables.

Everything listens on loopback and is gone afterwards. What was found is written to `results/` after
each row; with `--save`, to RESULTS.md, RESULTS.json and throughput.svg here.

One more peer can be named: `BENCH_PEER_CMD`, its command line, in which `{port}`, `{upstream}` (a
URL) and `{directory}` (its own, new) are filled in; `BENCH_PEER_URL` where it is not
`http://127.0.0.1:{port}`.
"""

import asyncio
import datetime as dt
import os
import platform
import resource
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.bench import report
from tests.bench.cases import Case
from tests.bench.figures import Row
from tests.bench.report import Facts
from tests.bench.run import ALL, rows, samples
from tests.bench.stage import MIB, QUICK, Scale
from tests.support.process import run

_HERE = Path(__file__).parent
_RESULTS = _HERE / "RESULTS.json"
_BOUNDS = {case.name: case.bound for case in ALL}
_SOAK = "soak"


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    *,
    only: Annotated[list[str] | None, typer.Option(help="A row's name; may be repeated.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller, shorter, one round.")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each row is done.")] = None,
    skip_soak: Annotated[
        bool, typer.Option("--skip-soak", help="Without ten minutes of mixed load.")
    ] = False,
    save: Annotated[
        bool,
        typer.Option(
            "--save", help="Write RESULTS.* here, to be committed; --only: renew these rows."
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Write RESULTS.* anew from RESULTS.json.")
    ] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the rows.")] = False,
) -> None:
    """Measure the mirror against real peers."""
    if show_list:
        for case in ALL:
            print(f"{case.name:<16} {case.title}")
        return
    if again:
        report.write(_HERE, *report.read(_RESULTS, _BOUNDS), name="RESULTS")
        return
    unknown = set(only or ()) - {case.name for case in ALL}
    if unknown:
        raise typer.BadParameter(f"no such row: {', '.join(sorted(unknown))} (see --list)")
    wanted = [
        case
        for case in ALL
        if (case.name in only if only else not (skip_soak and case.name == _SOAK))
    ]
    scale = QUICK if quick else Scale()
    # As the shipped unit does: a thousand clients need a thousand descriptors.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found, facts = asyncio.run(_measure(wanted, scale, rounds or scale.rounds, quick=quick))
    print(report.markdown(found, facts))
    if save and only:
        found, facts = report.renew(*report.read(_RESULTS, _BOUNDS), found, facts)
    if save:
        report.write(_HERE, found, facts, name="RESULTS")


async def _measure(
    wanted: list[Case], scale: Scale, rounds: int, *, quick: bool
) -> tuple[list[Row], Facts]:
    facts = await _facts(scale, rounds, quick=quick)
    found: list[Row] = []
    began = perf_counter()
    columns = (TextColumn("{task.description:<60}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("content", total=samples(wanted, rounds))

        def announce(case: Case, peer: str, number: int) -> None:
            progress.update(task, advance=1, description=f"{case.name} · {peer} · round {number}")

        async for row in rows(wanted, scale, rounds, announce):
            found.append(row)
            report.write(_HERE / "results", found, facts, name="results")  # whatever comes
            progress.console.print(f"{perf_counter() - began:4.0f} s  {_line(row)}")
    return found, facts


def _line(row: Row) -> str:
    told = [
        f"{peer} {(outcome.failure and 'failed') or report.number(row.median(peer) or 0)}"
        for peer, outcome in row.outcomes.items()
    ]
    return f"{row.name}: {row.figure}: {', '.join(told)}"


async def _facts(scale: Scale, rounds: int, *, quick: bool) -> Facts:
    commit = await run("git", "-C", str(_HERE), "rev-parse", "--short=12", "HEAD", check=False)
    changed = await run("git", "-C", str(_HERE), "status", "--porcelain", check=False)
    dirty = ", with changes that are not committed" if changed.stdout.strip() else ""
    return {
        "Commit": (commit.stdout.strip() or "unknown") + dirty,
        "Date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Machine": f"{_processor()}, {os.cpu_count()} cores, "
        f"Linux {platform.release()}, Python {platform.python_version()}",
        "Sizes": f"large {scale.large // MIB} MiB, medium {scale.medium // MIB} MiB, "
        f"throttled line {scale.line_bandwidth / 1e6:.0f} MB/s for each connection",
        "Rounds": f"{rounds}" + (", quick: small and short, not for comparing" if quick else ""),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


if __name__ == "__main__":
    cli()
