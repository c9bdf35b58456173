"""What the networks of ``deepnets`` are like, by family and by split: sizes, and what a step of meta-training costs.

Nodes are those that the hypernetwork sees. The time is that of forward and backward pass of one batch at random
weights, on one core: the median, and the 95th percentile. Quantiles are over networks, at the scoring scale.

    python scripts/deepnets_statistics.py --samples 500 --split train
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from hypernas.graphs.architecture import Architecture
from hypernas.networks.interpreter import compile_program
from hypernas.networks.network import random_weights
from hypernas.spaces.finding import load_space

COLUMNS = ("nodes", "parameters", "MFLOPs", "ms")


class Row(NamedTuple):
    nodes: float
    parameters: float
    mflops: float
    ms: float


def measure(architecture: Architecture, n_images: int) -> Row:
    program = compile_program(architecture)
    weights = [weight.requires_grad_() for weight in random_weights(architecture, 0).values()]
    x = torch.randn(n_images, *architecture.input_shape).contiguous(memory_format=torch.channels_last)
    y = torch.randint(architecture.output_shape[0], (n_images,))
    start = time.perf_counter()
    torch.autograd.grad(F.cross_entropy(program.run(x, weights), y), weights, allow_unused=True)
    seconds = time.perf_counter() - start
    return Row(
        len(architecture.dataflow.operations), architecture.n_parameters, architecture.flops / 1e6, 1000 * seconds
    )


def quantiles(values: Sequence[float]) -> str:
    """Median, 95th percentile and maximum."""
    ordered = sorted(values)
    figures = (statistics.median(ordered), ordered[int(0.95 * (len(ordered) - 1))], ordered[-1])
    return " / ".join(f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in figures)


def table(rows: Sequence[tuple[str, Row]]) -> None:
    print("| family | n | " + " | ".join(f"{column} (median / 95 % / most)" for column in COLUMNS) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for family in ["all", *sorted({family for family, _ in rows})]:
        mine = [row for name, row in rows if family in ("all", name)]
        cells = [quantiles([row[k] for row in mine]) for k in range(len(COLUMNS))]
        print(f"| {family} | {len(mine)} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operations", action="store_true", help="also how many networks have each operation")
    args = parser.parse_args()
    torch.set_num_threads(1)
    space, rng = load_space("deepnets"), random.Random(args.seed)
    rows, digests, operations = [], set(), Counter[str]()
    for _ in range(args.samples):
        architecture = space.sample(rng, split=args.split)
        assert architecture.decisions is not None
        rows.append((str(architecture.decisions["family"]), measure(architecture, args.images)))
        digests.add(architecture.digest)
        operations.update({node.op for node in architecture.dataflow.operations})
    print(f"split {args.split}, scale {space.default_scale.name}, {args.images} images, seed {args.seed}")
    print(f"{len(digests)} of {args.samples} sampled architectures are distinct\n")
    table(rows)
    if args.operations:
        print("\n" + "\n".join(f"{n / args.samples:6.1%} {op}" for op, n in operations.most_common()))


if __name__ == "__main__":
    main()
