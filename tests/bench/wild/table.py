"""All scenes, in the order of the table: importing their modules puts them into it."""

from collections.abc import Sequence

from tests.bench.wild import answers, clients, reaching, registries, tokens
from tests.bench.wild.kinds import KINDS, Kind

_MODULES = [module.__name__ for module in (registries, answers, tokens, reaching, clients)]

ALL: Sequence[Kind] = sorted(KINDS, key=lambda kind: _MODULES.index(kind.play.__module__))
