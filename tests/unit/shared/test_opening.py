"""What a mirror calls itself among others."""

from pathlib import Path

from mirror.shared.opening import read_names


def test_a_mirror_has_one_name_for_as_long_as_its_store_is(tmp_path: Path) -> None:
    name, deployment = read_names(tmp_path)
    assert name
    assert deployment is None
    (tmp_path / "deployment-id").write_text("ours\n")
    assert read_names(tmp_path) == (name, "ours")


def test_a_name_that_a_power_cut_has_left_empty_is_made_anew(tmp_path: Path) -> None:
    """Or all who have lost theirs would have the same, and take each other for themselves."""
    (tmp_path / "mirror-id").write_text("")
    name, _ = read_names(tmp_path)
    assert name
    assert read_names(tmp_path)[0] == name
