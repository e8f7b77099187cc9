"""All scenes, in the order of the table: importing their modules puts them into it."""

from collections.abc import Sequence

from tests.bench.wild import clients, reaching, registries
from tests.bench.wild.kinds import KINDS, Kind

_MODULES = [module.__name__ for module in (registries, reaching, clients)]

ALL: Sequence[Kind] = sorted(KINDS, key=lambda kind: _MODULES.index(kind.play.__module__))
