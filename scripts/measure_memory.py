"""Resident memory of a search over its number of candidates: how much in all, and how much for each further one.

python scripts/measure_memory.py --candidates 10000
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypernas.engine.driver import SilentWatcher, run_search
from hypernas.engine.options import SearchOptions
from hypernas.engine.records import Candidate


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Memory(SilentWatcher):
    """Reads the resident size as candidates are scored."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.readings: list[tuple[int, int]] = []

    def scored(self, rows: Sequence[Candidate], n_wanted: int, seconds: float) -> None:
        if len(rows) // self.every > len(self.readings):
            self.readings.append((len(rows), resident_bytes()))
            n, size = self.readings[-1]
            print(f"{n:7,} candidates: {size / 2**20:7.0f} MiB, {n / seconds:.0f} candidates/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--score-images", type=int, default=512)
    args = parser.parse_args()
    memory = Memory(max(1, args.candidates // 10))
    with tempfile.TemporaryDirectory() as out:
        options = SearchOptions(
            args.space,
            data=args.data,
            candidates=args.candidates,
            score_images=args.score_images,
            epochs=0,
            out=Path(out),
        )
        run_search(options, memory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    half = memory.readings[len(memory.readings) // 2 :]
    (first, at_first), (last, at_last) = half[0], half[-1]
    print(f"peak, with the tables and pictures at the end: {peak / 2**20:.0f} MiB")
    print(f"each further candidate (from {first:,} to {last:,}): {(at_last - at_first) / (last - first):.0f} bytes")


if __name__ == "__main__":
    main()
