"""The collector of garbage, set for a process that lives long and must answer at any time.

Reference counts free nearly everything. What is left is cycles, and to find them, a full collection
looks at every object there is and holds the loop meanwhile: a tenth of a second, again and again
while caches fill. So it is not shown what the start has made (code, classes, configuration), which
stays anyway, and the young are collected in larger lots, so that fewer of them become old.
"""

import gc

_THRESHOLDS = (10_000, 20, 100)
"""Containers more than there were, then collections of the younger: CPython has 700, 10, 10."""


def spare_what_is_there() -> None:
    """Look at nothing again that is there now; to be called once, after the start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
