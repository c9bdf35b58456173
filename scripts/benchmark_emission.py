"""Emission: architectures a second in batches, against one at a time, on one core, in one run.

python scripts/benchmark_emission.py
"""

from __future__ import annotations

import argparse
import random
import time

import torch

from hypernas.hypernet.ghn import GHN
from hypernas.runtime import keep_freed_memory
from hypernas.spaces.finding import load_space


def rate(ghn: GHN, architectures: list, batch: int) -> float:
    start = time.perf_counter()
    for i in range(0, len(architectures), batch):
        ghn.emit(architectures[i : i + batch])
    return len(architectures) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--architectures", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    space = load_space(args.space)
    scale = space.default_scale
    ghn = GHN()
    ghn.emit([space.sample(random.Random(1), scale)])
    n_parameters = sum(p.numel() for p in ghn.parameters())
    print(f"GHN with {n_parameters:,} parameters; {args.architectures} architectures of {args.space} at {scale.name}")
    for batch in (1, 4, 16, 32):
        rates = []
        for repeat in range(args.repeats):  # fresh architectures: nothing about them is cached
            rng = random.Random(repeat)
            rates.append(rate(ghn, [space.sample(rng, scale) for _ in range(args.architectures)], batch))
        print(
            f"batches of {batch:2d}: {sorted(rates)[len(rates) // 2]:6.0f} architectures/s (median of {args.repeats})"
        )


if __name__ == "__main__":
    main()
