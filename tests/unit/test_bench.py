"""The benchmark's arithmetic, and that it has every row that was promised."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import report
from tests.bench.cases import CURVE
from tests.bench.figures import (
    BEST,
    CACHE,
    DIRECT,
    DOCKER,
    LIMIT,
    MIRROR,
    STATIC,
    Figures,
    Outcome,
    Row,
    parse_aim,
    spread,
)
from tests.bench.run import ALL

PROMISED = {
    "tag", "tag-head", "digest", "blob-1k", "blob-16k", "blob-256k", "large-1", "large-4",
    "large-32", "range", "cold", "rush", "slow-readers", "tls", "start", "soak",
    "throttled", "throttled-20", "cut", "crash", "black-hole", "first-byte",
    "million", "held", "scrub", "catalog",
    "push-cut", "push-fast", "push-pull", "push-held",
}  # fmt: skip
PULLS = {
    f"{client}-{state}"
    for client in ("skopeo", "containerd", "dockerd")
    for state in ("cold", "warm")
}


def row(figure: str, aim: str = "", **outcomes: Outcome | list[Figures]) -> Row:
    names = {"mirror": MIRROR, "docker": DOCKER, "cache": CACHE, "static": STATIC, "direct": DIRECT}
    made = Row("a-row", "Hot paths", "a title", figure, aim)
    for key, outcome in outcomes.items():
        found = outcome if isinstance(outcome, Outcome) else Outcome(outcome)
        made.outcomes[names[key]] = found
    return made


def rounds(figure: str, *values: float) -> list[Figures]:
    return [{figure: value} for value in values]


def test_every_promised_row_is_there_once_and_has_an_aim() -> None:
    names = [case.name for case in ALL]
    assert len(names) == len(set(names))
    assert {case.name for case in ALL if case.aim} == PROMISED
    assert set(names) - PROMISED - PULLS == {c.name for c in ALL if c.table == CURVE}
    assert set(names) >= PULLS


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_every_aim_is_understood_and_its_peers_take_part(case: Any) -> None:
    for clause in parse_aim(case.aim, case.figure):
        assert clause.peer in {None, BEST, *case.peers}
    assert MIRROR in case.peers


def test_an_aim_is_taken_apart_into_its_conditions() -> None:
    first, second = parse_aim("≥ 0.4 x nginx static, peak memory ≤ 200 MiB", "requests")
    assert (first.figure, first.at_least, first.number, first.peer) == (
        "requests",
        True,
        0.4,
        LIMIT,
    )
    assert (second.figure, second.at_least, second.peer) == ("peak memory", False, None)
    assert first.holds(0.4)
    assert not first.holds(0.39)
    assert second.holds(200)
    assert not second.holds(201)


@pytest.mark.parametrize(
    "aim", ["fast", "≥ 2 x nobody", "peak memory ≤ 200 s", "luck ≥ 1 s", "≤ 1.5", "> 1 x direct"]
)
def test_an_aim_that_makes_no_sense_is_refused(aim: str) -> None:
    with pytest.raises(ValueError, match=r"aim|peer|is not in"):
        parse_aim(aim, "time")


def test_the_median_of_the_rounds_counts() -> None:
    assert Outcome(rounds("time", 9, 1, 2)).median("time") == 2
    assert Outcome(rounds("time", 1, 2)).median("time") == 1.5
    assert Outcome(rounds("time", 1, 2)).median("requests") is None
    assert Outcome(rounds("time", 1), failure="status 500").median("time") is None


def test_a_ratio_is_the_mirrors_figure_divided_by_the_peers() -> None:
    found = row("time", mirror=rounds("time", 1), docker=rounds("time", 4, 2, 3))
    assert found.ratio(DOCKER) == pytest.approx(1 / 3)
    assert found.ratio(CACHE) is None


def test_the_best_peer_is_the_fastest_of_those_that_one_could_choose() -> None:
    times = row("time", docker=rounds("time", 4), cache=rounds("time", 3), static=rounds("time", 1))
    requests = row("requests", docker=rounds("requests", 4), cache=rounds("requests", 3))
    assert times.median(BEST) == 3
    assert requests.median(BEST) == 4


def test_a_verdict_says_what_was_measured_and_whether_it_is_enough() -> None:
    found = row(
        "requests",
        "≥ 2 x docker-registry, ≥ 0.5 x nginx static",
        mirror=rounds("requests", 40),
        docker=rounds("requests", 20),
        static=rounds("requests", 100),
    )
    assert [(v.measured, v.met) for v in found.verdicts()] == [(2, True), (0.4, False)]


def test_a_peer_that_failed_is_shown_and_proves_nothing() -> None:
    failed = Outcome(rounds("requests", 1), failure="status 500")
    found = row("requests", "≥ 2 x docker-registry", mirror=rounds("requests", 9), docker=failed)
    (verdict,) = found.verdicts()
    assert (verdict.measured, verdict.met) == (None, None)
    assert "failed: status 500" in report.markdown([found], {})


def test_a_mirror_that_failed_has_met_nothing() -> None:
    failed = Outcome(failure="wrong bytes")
    found = row("requests", "≥ 2 x docker-registry", mirror=failed, docker=rounds("requests", 1))
    assert [verdict.met for verdict in found.verdicts()] == [False]
    assert "| failed: wrong bytes | **no** |" in report.markdown([found], {})


def test_the_report_holds_the_figures_and_nothing_else() -> None:
    aim = "≥ 2 x docker-registry"
    found = row(
        "requests", aim, mirror=rounds("requests", 30_000, 10_000), docker=rounds("requests", 1)
    )
    text = report.markdown([found], {"Commit": "abc"})
    assert "- Commit: abc" in text
    assert f"| a title | {aim} | 20,000 | yes |" in text
    assert "requests 20,000/s | ±50% of 2 | 20,000 x |" in text
    document = json.loads(json.dumps(report.as_document([found], {})))
    assert document["rows"][0]["outcomes"][MIRROR]["samples"] == rounds("requests", 30_000, 10_000)
    assert document["rows"][0]["verdicts"][0]["met"] is True


def test_the_plot_draws_a_line_for_each_peer() -> None:
    curve = [row("requests", mirror=rounds("requests", 2), docker=rounds("requests", 1))] * 2
    drawn = report.plot(curve)
    assert drawn.count("<polyline") == 2
    assert f">{DOCKER}</text>" in drawn


def test_the_spread_is_a_share_of_the_median() -> None:
    assert spread([9, 10, 12]) == pytest.approx(0.3)


def test_an_aim_that_is_missed_says_what_keeps_the_mirror_from_it() -> None:
    missed = row(
        "requests",
        "≥ 0.5 x nginx static",
        mirror=rounds("requests", 1),
        static=rounds("requests", 4),
    )
    missed.bound = "the interpreter"
    assert "| 0.250 | **no**: the interpreter |" in report.markdown([missed], {})
    missed.outcomes[MIRROR] = Outcome(rounds("requests", 4))
    assert "the interpreter" not in report.markdown([missed], {})


def test_rows_that_are_measured_again_take_their_places_and_say_when(tmp_path: Path) -> None:
    first, second = row("time", mirror=rounds("time", 1)), row("time", mirror=rounds("time", 2))
    second.name = "another-row"
    report.write(tmp_path, [first, second], {"Commit": "one", "Date": "then"}, name="RESULTS")
    rows, facts = report.read(tmp_path / "RESULTS.json", {"another-row": "the disk"})
    assert (rows[0], rows[1].bound, facts["Commit"]) == (first, "the disk", "one")
    again = row("time", mirror=rounds("time", 3))
    rows, facts = report.renew(rows, facts, [again], {"Commit": "two", "Date": "now"})
    assert [found.median(MIRROR) for found in rows] == [3, 2]
    assert facts == {"Commit": "one", "Date": "then", "Measured again": "a-row: two, now"}
    rows, facts = report.renew(rows, facts, [again], {"Commit": "three", "Date": "later"})
    assert facts["Measured again"] == "a-row: two, now; a-row: three, later"
