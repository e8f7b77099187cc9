"""Tells what was found: Markdown, JSON, and a plot. Every figure comes from the rows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.bench.cases import CURVE
from tests.bench.figures import BEST, LIMIT, MIRROR, UNITS, Outcome, Row, Verdict, spread

Facts = Mapping[str, str]
"""Commit, machine, date and the like, for the head of a report."""

WILD = "WILD.json"
"""What `python -m tests.bench.wild --save` has found; it becomes a part of RESULTS.md."""

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 360, 70, 50, 20
_COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#7f7f7f", "#9467bd")


_PREFACE = """Written by `python -m tests.bench`; nothing here is written by hand. Figures are
medians of the rounds. A ratio is the mirror's figure divided by the other's: above 1 is better for
requests and throughput, below 1 for times, memory and bytes. In the rows with a throttled line or
latency, all peers work at once, each with a line of its own; in the others, one after another.
Compare figures of one run only."""


_WILD = """Written by `python -m tests.bench.wild`: one row for each kind of thing that others have
met. It is held where a client gets what it would get going direct; else, what it got."""


def write(directory: Path, rows: Sequence[Row], facts: Facts, *, name: str) -> None:
    """Write `name`.md, `name`.json and, where there is a curve, throughput.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    curve = [row for row in rows if row.table == CURVE]
    if curve:
        (directory / "throughput.svg").write_text(plot(curve), encoding="utf-8")
    text = markdown(rows, facts, plotted=bool(curve))
    wild = directory / WILD
    if name == "RESULTS" and wild.exists():
        text += "\n" + in_the_wild(json.loads(wild.read_text(encoding="utf-8")))
    (directory / f"{name}.md").write_text(text, encoding="utf-8")
    document = json.dumps(as_document(rows, facts), indent=1, ensure_ascii=False)
    (directory / f"{name}.json").write_text(document + "\n", encoding="utf-8")


def read(file: Path, bounds: Mapping[str, str]) -> tuple[list[Row], Facts]:
    """What `write` has written as JSON; with what is known of the bounds by now, by row."""
    document = json.loads(file.read_text(encoding="utf-8"))
    rows = []
    for found in document["rows"]:
        found["outcomes"] = {peer: Outcome(**told) for peer, told in found["outcomes"].items()}
        found["bound"] = bounds.get(found["name"], "")
        del found["verdicts"]
        rows.append(Row(**found))
    return rows, document["facts"]


def renew(
    rows: Sequence[Row], facts: Facts, newer: Sequence[Row], their_facts: Facts
) -> tuple[list[Row], Facts]:
    """Rows of which some have been measured again, or are new; and facts that say which."""
    again = {row.name: row for row in newer}
    when = f"{', '.join(again)}: {their_facts['Commit']}, {their_facts['Date']}"
    earlier = facts.get("Measured again", "")
    told = {**facts, "Measured again": f"{earlier}; {when}".removeprefix("; ")}
    known = {row.name for row in rows}
    added = [row for row in newer if row.name not in known]
    return [*(again.get(row.name, row) for row in rows), *added], told


def as_document(rows: Iterable[Row], facts: Facts) -> Mapping[str, Any]:
    """Everything, for programs."""
    found = [asdict(row) | {"verdicts": [asdict(v) for v in row.verdicts()]} for row in rows]
    return {"facts": facts, "units": UNITS, "rows": found}


def markdown(rows: Sequence[Row], facts: Facts, *, plotted: bool = False) -> str:
    """Everything, for people."""
    parts = [
        "# Measured against its peers",
        _PREFACE,
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        "## Aims",
        _aims(rows),
    ]
    for table, members in groupby(rows, key=lambda row: row.table):
        parts += [f"## {table}"]
        parts += ["![throughput over concurrency](throughput.svg)"] if table == CURVE else []
        parts += [_peers(list(members))]
    return "\n\n".join(parts) + "\n"


def in_the_wild(found: Mapping[str, Any]) -> str:
    """What real registries, networks and clients do, and who holds it."""
    kinds: Sequence[Mapping[str, Any]] = found["kinds"]
    seated = list(kinds[0]["outcome"])
    lines = [(kind["title"], *(kind["outcome"][who] or "held" for who in seated)) for kind in kinds]
    held = [f"{sum(not kind['outcome'][who] for kind in kinds)} of {len(kinds)}" for who in seated]
    parts = [
        "## In the wild",
        f"{_WILD} Played {found['date']}, commit {found['commit']}.",
        _table(("What happens, and what is wanted", *seated), [*lines, ("**Held**", *held)]),
    ]
    return "\n\n".join(parts) + "\n"


def _aims(rows: Iterable[Row]) -> str:
    lines = [
        (row.title if not number else "", verdict.text, *_told(row, verdict))
        for row in rows
        for number, verdict in enumerate(row.verdicts())
    ]
    return _table(("Case", "Aim", "Measured", "Met"), lines)


def _told(row: Row, verdict: Verdict) -> tuple[str, str]:
    if verdict.measured is None:
        failure = row.outcomes[MIRROR].failure if MIRROR in row.outcomes else "not measured"
        return (f"failed: {failure}", "**no**") if failure else ("the peer failed", "alone")
    if verdict.met:
        return number(verdict.measured), "yes"
    return number(verdict.measured), f"**no**: {row.bound}" if row.bound else "**no**"


def _peers(rows: Iterable[Row]) -> str:
    lines: list[tuple[str, ...]] = []
    for row in rows:
        for place, (peer, outcome) in enumerate(row.outcomes.items()):
            title = row.title if place == 0 else ""
            if outcome.failure:
                lines.append((title, peer, f"failed: {outcome.failure}", "", "", "", "", ""))
                continue
            lines.append((title, peer, *_figures(row, peer)))
    head = (
        "Case",
        "Peer",
        "Figure",
        "Spread",
        "Ratio to best peer",
        "Ratio to limit",
        "CPU",
        "Also",
    )
    return _table(head, lines)


def _figures(row: Row, peer: str) -> tuple[str, ...]:
    medians = {name: row.median(peer, name) for name in UNITS}
    told = {name: _quantity(name, value) for name, value in medians.items() if value is not None}
    main = told.pop(row.figure, "")
    cpu = [f"{told.pop(name)} {name[4:]}" for name in list(told) if name.startswith("CPU ")]
    also = [f"{name} {value}" for name, value in told.items()]
    values = [sample[row.figure] for sample in row.outcomes[peer].samples]
    ratios = [_ratio(row, other) if peer == MIRROR else "" for other in (BEST, LIMIT)]
    rounds = f"±{spread(values) / 2:.0%} of {len(values)}" if len(values) > 1 else ""
    return (f"{row.figure} {main}", rounds, *ratios, ", ".join(cpu), ", ".join(also))


def _ratio(row: Row, other: str) -> str:
    ratio = row.ratio(other)
    return "–" if ratio is None else f"{number(ratio)} x"  # noqa: RUF001 - a dash


def _quantity(name: str, value: float) -> str:
    return f"{number(value)} {UNITS[name]}".replace(" /s", "/s").strip()


def number(value: float) -> str:
    """Three digits that count, and no more."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}" if abs(value) < 10 else f"{value:.1f}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def plot(curve: Sequence[Row]) -> str:
    """An SVG of throughput over connections, one line for each peer."""
    peers = list(curve[0].outcomes)
    values = {peer: [row.median(peer) or 0.0 for row in curve] for peer in peers}
    highest = max((value for line in values.values() for value in line), default=0.0) or 1.0
    width, height = _WIDTH - _LEFT - 170, _HEIGHT - _BOTTOM - _TOP

    def at(place: int, value: float) -> str:
        across = _LEFT + width * place / max(1, len(curve) - 1)
        return f"{across:.1f},{_TOP + height * (1 - value / highest):.1f}"

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            'font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for step in range(5):
        value = highest * step / 4
        x, y = at(0, value).split(",")
        parts.append(f'<path d="M{x},{y} h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end">{value:,.0f}</text>')
    for place, row in enumerate(curve):
        x = at(place, 0).split(",")[0]
        label = row.name.rpartition("-")[2]
        parts.append(f'<text x="{x}" y="{_HEIGHT - 30}" text-anchor="middle">{label}</text>')
    for rank, peer in enumerate(peers):
        colour = _COLOURS[rank % len(_COLOURS)]
        points = " ".join(at(place, value) for place, value in enumerate(values[peer]))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        below = _TOP + 20 * (rank + 1)
        parts.append(f'<text x="{_WIDTH - 160}" y="{below}" fill="{colour}">{peer}</text>')
    parts.append(
        f'<text x="{_LEFT + width / 2}" y="{_HEIGHT - 10}" text-anchor="middle">'
        "connections (manifest by fresh tag, requests per second)</text></svg>"
    )
    return "\n".join(parts) + "\n"
