"""What a server costs, read from /proc: its processes' CPU seconds, memory and descriptors."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from tests.bench.figures import Figures

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PATH = 5  # of the fields of a mapping in smaps
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 2**20
_RESET_PEAK = "5"  # proc(5): clear_refs
_IDLE_SECONDS = 0.2  # without using any CPU
_MOST_IDLING = 50  # times


@dataclass(slots=True)
class Cost:
    """What happened inside a `metered` block."""

    cpu_seconds: float = 0.0
    peak_mib: float = 0.0

    def per_gb(self, length: int) -> Figures:
        return {"CPU per GB": self.cpu_seconds / (length / 1e9), "peak memory": self.peak_mib}

    def per_thousand(self, requests: int) -> Figures:
        return {
            "CPU per 1,000 requests": self.cpu_seconds / (requests / 1e3),
            "peak memory": self.peak_mib,
        }


@contextmanager
def metered(pid: int) -> Iterator[Cost]:
    """Measure a server inside the block; the cost is there after it.

    The peak is of each process for itself, less what several of them share now.
    """
    cost = Cost()
    for process in family(pid):
        (process / "clear_refs").write_text(_RESET_PEAK)
    before = cpu_seconds(pid)
    yield cost
    cost.cpu_seconds = cpu_seconds(pid) - before
    peaks = sum(_status_kib(process, "VmHWM") for process in family(pid)) / 1024
    cost.peak_mib = peaks - (resident_mib(pid) - memory_mib(pid))  # what several share, once


def cpu_seconds(pid: int) -> float:
    """Used so far, with all children, ended ones too."""
    return sum(sum(map(int, _stat(process)[11:15])) for process in family(pid)) / _TICKS_PER_SECOND


def resident_mib(pid: int) -> float:
    """Memory in use now, of each process for itself."""
    return sum(int(_stat(process)[21]) for process in family(pid)) * _PAGE / _MIB


def memory_mib(pid: int) -> float:
    """Memory in use now, each page once, whoever of the family shares it.

    Of files (programs, libraries), whose pages other programs of this machine may share, the most
    that any one process of the family has of each counts.
    """
    anonymous, files = 0, dict[str, int]()
    for process in family(pid):
        of_files = dict[str, int]()
        name = ""
        for line in (process / "smaps").read_text().splitlines():
            words = line.split()
            if not words[0].endswith(":"):
                name = words[_PATH] if len(words) > _PATH else ""
            elif words[0] == "Rss:":
                of_files[name] = of_files.get(name, 0) + int(words[1])
            elif words[0] == "Anonymous:":
                of_files[name] -= int(words[1])
        for path, size in of_files.items():
            files[path] = max(size, files.get(path, 0))
        anonymous += _kib(process / "smaps_rollup", "Pss_Anon")
    return (anonymous + sum(files.values())) / 1024


def descriptors(pid: int) -> int:
    """Open now."""
    return sum(len(list((process / "fd").iterdir())) for process in family(pid))


async def idle(*pids: int) -> None:
    """Wait until these servers have nothing left to do, or seem never to be done."""
    used = -1.0
    for _ in range(_MOST_IDLING):
        now = sum(cpu_seconds(pid) for pid in pids)
        if now == used:
            return
        used = now
        await asyncio.sleep(_IDLE_SECONDS)


def have_memory(directory: Path, size: int) -> None:
    """See that the system has `size` bytes of memory free that it need not ask its host for.

    A virtual machine gives back what it does not use; whoever writes there next pays for it, which
    would be the peer that happens to come first.
    """
    with TemporaryFile(dir=directory) as file:
        for _ in range(size // _MIB):
            file.write(bytes(_MIB))


def family(pid: int) -> list[Path]:
    """The process and all it started, as directories of /proc."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            parents[int(entry.name)] = int(_stat(entry)[1])
    found = [pid]
    for known in found:  # grows
        found += [child for child, parent in parents.items() if parent == known]
    return [Path("/proc") / str(process) for process in found]


def _stat(process: Path) -> list[str]:
    """The fields of proc(5) after the name, which may hold anything; the first is the state."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def _status_kib(process: Path, name: str) -> int:
    return _kib(process / "status", name)


def _kib(file: Path, name: str) -> int:
    lines = file.read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
