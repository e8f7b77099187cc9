"""What goes to make room, as hosts and scanners pull: what upstream is asked for once more."""

from tests.conftest import StartMirror
from tests.support.clock import FakeClock
from tests.support.images import Image, image, random_layer
from tests.support.mirror import InnerMirror
from tests.support.upstream import ScriptedRegistry

SIZE = 1_000_000
DAY = 86_400
ROOM = f"{8 * SIZE} B"


def _add(upstream: ScriptedRegistry, seed: int, tag: str = "1", *, name: str = "") -> Image:
    made = image(random_layer(SIZE, seed=seed), command=[str(seed)])
    return upstream.add(made, f"library/{name or f'app{seed}'}", tag)


async def _pull(mirror: InnerMirror, name: str, made: Image, reference: str = "1") -> None:
    answer = await mirror.client.manifest(name, reference)
    assert (answer.status, answer.digest) == (200, made.digest)
    for digest in (made.config, *made.layers):
        assert (await mirror.client.blob(name, digest)).status == 200
    await mirror.until_metric("mirror_fills_active", 0)


async def test_a_scanner_that_pulls_everything_once_a_night_costs_the_hosts_nothing(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    mirror = await start_mirror(store={"max_size": ROOM})
    used = {f"app{seed}": _add(upstream, seed) for seed in range(3)}
    others = {f"app{seed}": _add(upstream, seed) for seed in range(3, 14)}
    for _ in range(2):
        for name, made in used.items():
            await _pull(mirror, name, made)
    clock.advance(DAY / 2)
    for name, made in others.items():
        await _pull(mirror, name, made)
    upstream.forget()
    for name, made in used.items():
        await _pull(mirror, name, made)
    assert upstream.asked("blob") == []


async def test_the_release_before_goes_before_what_is_hardly_used(
    upstream: ScriptedRegistry, start_mirror: StartMirror, clock: FakeClock
) -> None:
    mirror = await start_mirror(store={"max_size": ROOM})
    rare = _add(upstream, 1, name="rare")
    await _pull(mirror, "rare", rare)
    clock.advance(2 * DAY)
    old = _add(upstream, 2, "latest", name="app")
    for _ in range(3):
        await _pull(mirror, "app", old, "latest")
    new = _add(upstream, 3, "latest", name="app")
    clock.advance(DAY)
    await _pull(mirror, "app", new, "latest")
    for seed in range(4, 9):
        await _pull(mirror, f"app{seed}", _add(upstream, seed))
    upstream.forget()
    await _pull(mirror, "rare", rare)
    await _pull(mirror, "app", new, "latest")
    assert upstream.asked("blob") == []
    await _pull(mirror, "app", old, old.digest)
    assert [asked.reference for asked in upstream.asked("blob")] == [*old.layers]
