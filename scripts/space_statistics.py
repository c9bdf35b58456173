"""How many sets of decisions ``cifar_cells`` has, and which share of them is distinct by digest.

Different decisions can build the same cell: the two edges of a node may change places, and nodes their order. A set of
decisions stands for itself and for all others with its digest; with m of them, it counts 1/m towards the number of
distinct ones. The mean of 1/m over random decisions is the share that is distinct. m is counted exactly: every order of
nodes that keeps inputs before readers, times every order of a node's edges, as a set.

    python scripts/space_statistics.py --samples 2000
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import statistics

from hypernas.spaces.cells import N_INPUTS, OPERATIONS, Cell, choose_cell
from hypernas.spaces.space import random_chooser

N_NODES, N_EDGES = 4, 2


def n_decisions() -> int:
    """Of one cell."""
    return math.prod((len(OPERATIONS) * (N_INPUTS + k)) ** N_EDGES for k in range(N_NODES))


def n_equal(cell: Cell) -> int:
    """How many sets of decisions build this cell."""
    found = set()
    for order in itertools.permutations(range(N_NODES)):
        place = {0: 0, 1: 1, **{N_INPUTS + old: N_INPUTS + new for new, old in enumerate(order)}}
        nodes = [[(op, place[source]) for op, source in cell.nodes[old]] for old in order]
        if all(source < N_INPUTS + k for k, edges in enumerate(nodes) for _, source in edges):
            found.update(itertools.product(*(set(itertools.permutations(edges)) for edges in nodes)))
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    shares = [
        1
        / (
            n_equal(choose_cell(random_chooser(rng), "c", tuple(OPERATIONS)))
            * n_equal(choose_cell(random_chooser(rng), "c", tuple(OPERATIONS)))
        )
        for _ in range(args.samples)
    ]
    mean, se = statistics.mean(shares), statistics.stdev(shares) / math.sqrt(len(shares))
    total = n_decisions() ** 2
    print(f"decisions: {total:.3e} ({n_decisions():.3e} a cell)")
    print(f"distinct share: {mean:.5f} ± {se:.5f} (n = {args.samples}), about {total * mean:.1e} architectures")


if __name__ == "__main__":
    main()
