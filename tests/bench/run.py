"""Does the rows: each round lets every peer do the same work, one after another."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from tests.bench import cases, clients, fleet, pushes, slow_link, years
from tests.bench.cases import Case
from tests.bench.figures import Outcome, Row
from tests.bench.stage import FAILURES, Scale, Stage, running_stage

ALL: tuple[Case, ...] = (
    *cases.CASES,
    *slow_link.CASES,
    *pushes.CASES,
    *clients.CASES,
    *years.CASES,
    *fleet.CASES,
)

Announce = Callable[[Case, str, int], None]
"""Told before each sample: the row, the peer and the round."""


def samples(wanted: Sequence[Case], rounds: int) -> int:
    """How many times `announce` will be called, at most."""
    return sum(len(case.peers) * _rounds(case, rounds) for case in wanted)


async def rows(
    wanted: Sequence[Case], scale: Scale, rounds: int, announce: Announce
) -> AsyncIterator[Row]:
    """Do these rows; gives each as soon as it is done."""
    with tempfile.TemporaryDirectory(prefix="mirror-bench-") as directory:
        async with running_stage(Path(directory), scale) as stage:
            for case in wanted:
                yield await _row(stage, case, _rounds(case, rounds), announce)


async def _row(stage: Stage, case: Case, rounds: int, announce: Announce) -> Row:
    row = Row(case.name, case.table, case.title, case.figure, case.aim, case.bound)
    row.outcomes = {peer: Outcome() for peer in case.peers}

    async def sample(peer: str, number: int) -> None:
        outcome = row.outcomes[peer]
        announce(case, peer, number)
        if outcome.failure:
            return
        try:
            outcome.samples.append(await case.sample(stage, peer))
        except FAILURES as error:
            outcome.failure = _reason(error)

    for number in range(1, rounds + 1):
        if case.together:
            await asyncio.gather(*(sample(peer, number) for peer in case.peers))
            continue
        for peer in case.peers:
            await sample(peer, number)
    return row


def _rounds(case: Case, rounds: int) -> int:
    return min(rounds, case.most_rounds or rounds)


def _reason(error: BaseException) -> str:
    """One line: the first thing that went wrong."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error).strip().splitlines() or [type(error).__name__]
    return f"{text[0]} ... {text[-1]}" if len(text) > 1 else text[0]
