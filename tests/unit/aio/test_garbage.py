import sys

from tests.support.process import run

_SCRIPT = """
import gc
from mirror.aio.garbage import spare_what_is_there

kept = [[] for _ in range(1000)]
spare_what_is_there()
full = []
gc.callbacks.append(
    lambda phase, info: full.append(1) if phase == "start" and info["generation"] == 2 else None
)
assert not any(thing is kept for thing in gc.get_objects()), "what was there is looked at"
cache = [[number] for number in range(300_000)]  # as caches fill
print("full collections:", len(full))

class Cycle:
    pass

def leave_a_cycle():
    one = Cycle()
    one.itself = one

for _ in range(30_000):
    leave_a_cycle()
print("cycles left:", sum(isinstance(thing, Cycle) for thing in gc.get_objects()) < 15_000)
"""


async def test_the_collector_looks_at_everything_seldom_and_at_what_the_start_has_made_never() -> (
    None
):
    done = await run(sys.executable, "-c", _SCRIPT)
    assert done.stdout.splitlines() == ["full collections: 0", "cycles left: True"]
