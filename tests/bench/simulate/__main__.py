"""`python -m tests.bench.simulate`: what different rules of eviction would have fetched.

Generated traces (`trace.py`) are played to each rule (`policies.py`), and to the mirror's own
(`mirrors.py`), with stores of a twentieth, a tenth and a fifth of all that is ever asked for.
Nothing is asked of any network, and the same seed gives the same table.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from tests.bench.simulate.mirrors import ALL, MIRRORS
from tests.bench.simulate.policies import Cache
from tests.bench.simulate.trace import DAY, SHAPES, Shape, Trace, generate

SHARES = (0.05, 0.1, 0.2)  # of the footprint, that the store has
_WARM = 0.25  # part of a trace that is played before anything counts
_QUICK = 0.1  # of everything in a trace


@dataclass(frozen=True, slots=True)
class Outcome:
    """Bytes fetched, as a multiple of the footprint; image pulls that were served whole."""

    fetched: float
    whole: float
    requests: int

    def __str__(self) -> str:
        return f"{self.fetched:.2f} ({self.whole:.0%})".replace("%", " %")


def play(trace: Trace, cache: Cache, *, after: float, footprint: int) -> Outcome:
    """What a store with this rule fetches, from a time on."""
    fetched = requests = pulls = whole = 0
    for pull in trace.pulls:
        if pull.superseded:
            cache.supersede(pull.superseded)
        cache.see(pull.image)
        missed = [blob for blob in pull.blobs if not cache.ask(blob, pull.at)]
        if pull.at < after:
            continue
        pulls += 1
        whole += not missed
        requests += len(missed)
        fetched += sum(trace.sizes[blob] for blob in missed)
    return Outcome(fetched / footprint, whole / pulls, requests)


def columns(shapes: Iterator[Shape], seed: int, played: Callable[[], None]) -> Iterator["Column"]:
    """One trace after another, and for each rule what came out."""
    for shape in shapes:
        trace = generate(shape, seed)
        footprint, after = trace.footprint, shape.days * DAY * _WARM
        column = Column(shape.name, trace.requests, footprint, {})
        for name, make in ALL.items():
            caches = [make(trace, int(footprint * share)) for share in SHARES]
            column.rows[name] = [
                play(trace, cache, after=after, footprint=footprint) for cache in caches
            ]
            played()
        yield column


@dataclass(frozen=True, slots=True)
class Column:
    """One trace."""

    name: str
    requests: int
    footprint: int
    rows: dict[str, list[Outcome]]


def table(found: list[Column]) -> str:
    """As it stands in the storage's README."""
    shares = [f"{share:.0%}".replace("%", " %") for share in SHARES]
    titles = [f"{column.name} {share}" for column in found for share in shares]
    lines = ["| rule | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name in ALL:
        cells = [str(outcome) for column in found for outcome in column.rows[name]]
        if name == MIRRORS:
            name, cells = f"**{name}**", [f"**{cell}**" for cell in cells]  # noqa: PLW2901
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Ten times as many hosts and repositories.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Another one makes other traces of the same kind.")] = 1,
) -> None:
    """Play traces to the rules of eviction, and print the table."""
    shapes = [shape if full else shape.scaled(_QUICK) for shape in SHAPES]
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        bar = progress.add_task("playing", total=len(shapes) * len(ALL))
        found = list(columns(iter(shapes), seed, lambda: progress.advance(bar)))
    for column in found:
        print(
            f"{column.name}: {column.requests:,} requests,"
            f" {column.footprint / 2**30:,.0f} GiB ever asked for"
        )
    print(f"\n{table(found)}")


if __name__ == "__main__":
    typer.run(main)
