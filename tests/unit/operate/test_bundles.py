"""What a person sees of an import: a bar that moves within blobs, and a line for each image."""

import json
import tempfile
from collections.abc import AsyncGenerator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from mirror.config import parse
from mirror.control.verify import Total
from mirror.operate.bundles.archive import Archive
from mirror.operate.bundles.exporting import becoming
from mirror.operate.bundles.importing import import_bundle
from mirror.operate.bundles.show import show
from mirror.operate.bundles.steps import BundleStep, Done, Imported, Meter, Moved
from mirror.operate.bundles.verbs import open_depot
from tests.support.bundles import files_of, write
from tests.support.images import image, random_layer
from tests.support.mirror import document

MANY = [f"sha256:{number}" for number in range(7)]


async def told(*steps: BundleStep, as_json: bool = False) -> tuple[bool, list[str]]:
    async def happening() -> AsyncGenerator[BundleStep]:
        for step in steps:
            yield step

    to = StringIO()
    is_well = await show(happening(), what="import", as_json=as_json, to=to, meter=Meter())
    return is_well, to.getvalue().splitlines()


async def test_what_went_well_is_a_line_for_each_image_and_a_sum() -> None:
    is_well, lines = await told(
        Total(2, 3000), Moved("sha256:a", 1000, "written"), Moved("sha256:b", 2000, "present"),
        Imported("docker.io/library/app:1", "imported"), Done(1, 1, 1000, 1),
    )  # fmt: skip
    assert is_well
    assert lines == [
        "docker.io/library/app:1",
        "1 images, 1 blobs (1000 B) written, 1 were here already",
    ]


async def test_what_is_lacking_is_named_and_not_a_thousand_lines_of_it() -> None:
    is_well, lines = await told(Imported("ghcr.io/org/app:1", "incomplete", MANY))
    assert not is_well
    assert lines[1:] == [f"  {it}" for it in MANY[:5]] + ["  and 2 more (--json names them)"]


async def test_each_outcome_that_is_not_well_says_so() -> None:
    for step in (
        Imported("x", "partly", MANY), Imported("x", "refused", reason="no"),
        Moved("sha256:a", 1, "damaged"),
    ):  # fmt: skip
        is_well, lines = await told(step)
        assert (is_well, bool(lines)) == (False, True)
        assert await told(step, as_json=True) != (True, [])


async def test_bytes_are_counted_as_they_pass_within_blobs_too(tmp_path: Path) -> None:
    root = tmp_path / "store"
    (root / "blobs").mkdir(parents=True)
    app = image(random_layer(3_000_000, seed=1))
    bundle = write(tmp_path / "bundle.tar", files_of({"docker.io/library/app:1": app}))
    size = sum(map(len, [app.manifest, *app.blobs.values()]))
    async with open_depot(parse(document({"docker.io": {}}, store_root=root))) as depot:
        for _ in ("written", "here already"):
            seen, meter = list[int](), Meter()
            meter.advance = seen.append
            with Archive.open(bundle) as archive:
                assert [step async for step in import_bundle(depot, archive, meter)]
            assert (sum(seen), len(seen) > len(app.blobs) + 1) == (size, True)


async def test_what_a_bundle_calls_an_image_is_no_command_to_a_terminal() -> None:
    name = "x\x1b]0;owned\x07\x9b2J\u202e"
    for step in (
        Imported(name, "refused", reason=f"{name} is no image"), Imported(name, "partly", [name]),
    ):  # fmt: skip
        for as_json in (False, True):
            _, lines = await told(step, as_json=as_json)
            assert all(line.isprintable() for line in lines)
    _, (line,) = await told(Imported(name, "newer"), as_json=True)
    assert name in json.loads(line).values()


def test_what_a_killed_export_has_left_goes_with_the_next_and_others_go_on(tmp_path: Path) -> None:
    path, left = tmp_path / "bundle.tar", tmp_path / ".bundle.tar.left.part"
    left.touch()
    with becoming(path) as one:
        one.write(b"one")
        assert not left.exists()
        with becoming(path) as two:
            two.write(b"two")
        assert path.read_bytes() == b"two"
    assert path.read_bytes() == b"one"
    assert [it.name for it in tmp_path.iterdir()] == ["bundle.tar"]


def test_of_two_exports_that_begin_at_once_neither_removes_the_others_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, make, made = tmp_path / "bundle.tar", tempfile.mkstemp, list[str]()

    def make_as_another_begins(**where: Any) -> tuple[int, str]:
        handle, name = make(**where)
        made.append(name)
        if len(made) == 1:
            with becoming(path) as other:
                other.write(b"other")
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", make_as_another_begins)
    with becoming(path) as one:
        assert path.read_bytes() == b"other"
        one.write(b"one")
    assert path.read_bytes() == b"one"
    assert [it.name for it in tmp_path.iterdir()] == ["bundle.tar"]
