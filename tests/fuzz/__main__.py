"""Feed everything that reads what peers send with what a fuzzer thinks of.

    python -m tests.fuzz --seconds 300              all of it, in turn by the input's first byte
    python -m tests.fuzz --seconds 300 --only link

What ends in a fault is printed with its input, which is left in a file `crash-...`.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # it tells none

with atheris.instrument_imports(include=["mirror"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS

_LONGEST = 5  # seconds, for one input
_MEMORY = 512  # MiB, at most
_LARGEST = 4096  # bytes


def main() -> None:
    """Fuzz for as long as was asked for; exits with a fault's status, or 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--only", choices=[*TARGETS])
    chosen = parser.parse_args()
    targets = [TARGETS[chosen.only]] if chosen.only else [*TARGETS.values()]

    def feed(data: bytes) -> None:
        if data:
            targets[data[0] % len(targets)](data[1:])

    with tempfile.TemporaryDirectory() as corpus:
        for number, target in enumerate(targets):
            for seed, content in enumerate(target.seeds):
                Path(corpus, f"{number}-{seed}").write_bytes(bytes([number]) + content)
        atheris.Setup(
            [
                sys.argv[0], corpus, f"-max_total_time={chosen.seconds}", f"-timeout={_LONGEST}",
                f"-rss_limit_mb={_MEMORY}", f"-max_len={_LARGEST}", "-print_final_stats=1",
            ],
            feed,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()
