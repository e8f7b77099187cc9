"""What a test needs from this machine."""

import shutil
import subprocess

import pytest

from tests.support.process import INHERITED


def require(*programs: str) -> None:
    """Skip the test, with the reason, where a program is missing; a failure under `CI=true`."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        _cannot_run(f"not installed: {', '.join(missing)}")


def require_root() -> None:
    """Skip or fail, as `require` does, a test that must be allowed to mount and to isolate."""
    if subprocess.run(("unshare", "--mount", "--pid", "true"), check=False).returncode:
        _cannot_run("needs root, and a machine that lets it mount file systems")


def _cannot_run(reason: str) -> None:
    if INHERITED.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
