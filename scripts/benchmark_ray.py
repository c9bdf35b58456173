"""Two Ray workers against one: architectures a second once all workers have started, and how long the start takes.

python scripts/benchmark_ray.py [--space cifar_cells] [--data digits] [--candidates 400] [--workers 1 2]

The rate counts from the moment when every worker has handed in its first batch. The machine has to be idle otherwise.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from hypernas.cluster import RayEngine
from hypernas.data import load_dataset
from hypernas.engine.running import Batch
from hypernas.graphs.architecture import Architecture
from hypernas.interrupts import catch_interrupts
from hypernas.ranking.ranker import Ranked, Ranker, obtain_ranker
from hypernas.spaces.finding import load_space


class Timed:
    """Hands out architectures, and notes when each batch came back, from whom."""

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        self.left, self.n_out, self.n_batches = list(architectures), 0, 0
        self.came: list[tuple[float, str, int]] = []
        self.failures: list[str] = []

    def next(self, n: int) -> Batch | None:
        if not self.left:
            return None
        batch, self.left = Batch(self.n_batches, tuple(self.left[:n])), self.left[n:]
        self.n_batches, self.n_out = self.n_batches + 1, self.n_out + 1
        return batch

    @property
    def finished(self) -> bool:
        return not self.left and not self.n_out

    def done(self, batch: Batch, ranked: Sequence[Ranked], worker: str, n_loads: int = 1) -> None:
        self.n_out -= 1
        self.came.append((time.monotonic(), worker, len(ranked)))

    def failed(self, batch: Batch, reason: str) -> None:
        self.n_out -= 1
        self.failures.append(reason)


def measure(ranker: Ranker, architectures: Sequence[Architecture], n_workers: int, batch: int) -> float:
    work = Timed(architectures)
    with catch_interrupts() as stop, tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        engine = RayEngine(Path(folder) / "ray", stop, n_workers=n_workers, batch=batch)
        ray_s = time.monotonic() - start
        try:
            engine.score([ranker], work)
        finally:
            engine.close()
    first = {worker: moment for moment, worker, _ in reversed(work.came)}
    began = max(first.values())
    counted = [(moment, n) for moment, _, n in work.came if moment > began]
    rate = sum(n for _, n in counted) / (counted[-1][0] - began)
    print(
        f"{n_workers} workers: Ray {ray_s:.1f} s, all workers at work after {began - start:.1f} s; "
        f"{rate:.2f} architectures/s over {sum(n for _, n in counted)}; processes {len(first)}, "
        f"failures {len(work.failures)}",
        flush=True,
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--candidates", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    space, dataset = load_space(options.space), load_dataset(options.data)
    ranker = obtain_ranker(space, dataset, given=None, device=torch.device("cpu"), say=print)
    rng = random.Random(0)
    architectures = [space.sample(rng, ranker.scale) for _ in range(options.candidates)]
    rates: dict[int, list[float]] = {n: [] for n in options.workers}
    for _ in range(options.repeats):
        for n, found in rates.items():
            found.append(measure(ranker, architectures, n, options.batch))
    base = statistics.median(rates[options.workers[0]])
    for n, found in rates.items():
        print(
            f"{n} workers: median {statistics.median(found):.2f} a second, {statistics.median(found) / base:.2f} times"
        )


if __name__ == "__main__":
    main()
