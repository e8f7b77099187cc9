"""The part of the API's table that tells what was."""

from functools import partial

from mirror.control import models
from mirror.control.api.operations import Operation
from mirror.control.past import Past


def history_operations(past: Past) -> tuple[Operation, ...]:
    """Pulls, totals, arrivals, spells, waste."""
    return (
        Operation(
            "listPulls", "GET", "/pulls", "Pulls and why they went as they did, latest first.",
            models.Pulls, past.pulls, query=models.PullsQuery,
            to_others=partial(past.pulls, hides=True),
        ),
        Operation(
            "listTotals", "GET", "/totals", "Hours or days (UTC), latest first.",
            models.Totals, past.totals, query=models.TotalsQuery,
            to_others=partial(past.totals, hides=True),
        ),
        Operation(
            "listArrivals", "GET", "/arrivals", "Where blobs came from, latest first.",
            models.Arrivals, past.arrivals, query=models.ArrivalsQuery,
            to_others=partial(past.arrivals, hides=True),
        ),
        Operation(
            "listSpells", "GET", "/endpoints/spells",
            "When endpoints were down or paused, and when the mirror ran; latest first.",
            models.Spells, past.spells, query=models.SpellsQuery,
        ),
        Operation(
            "getWaste", "GET", "/waste", "What costs the line most, and what for nothing.",
            models.Waste, past.waste, query=models.WasteQuery,
            to_others=partial(past.waste, hides=True),
        ),
    )  # fmt: skip
