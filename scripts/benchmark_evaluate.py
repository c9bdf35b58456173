"""What hypernas adds to torch's own capture for one module, and emission of large networks in batches, on one core.

python scripts/benchmark_evaluate.py [--ghn FILE]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from zoo.residual import resnet50

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.tracing import trace
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.ghn import GHN
from hypernas.runtime import keep_freed_memory
from hypernas.spaces.finding import load_space


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def of_a_module(ghn: GHN, repeats: int) -> None:
    module = resnet50(num_classes=10)
    capture, convert, encode, emit = [], [], [], []
    for _ in range(repeats):  # traced anew each time: an architecture keeps its canonical order
        first, second = (trace(module, input_shape=(3, 32, 32)) for _ in range(2))
        capture.append(first.capture_s)
        convert.append(first.convert_s)
        start = time.perf_counter()
        with torch.inference_mode():
            ghn.encoder(ghn.batch([first.architecture]))
        encode.append(time.perf_counter() - start)
        start = time.perf_counter()
        ghn.emit([second.architecture])
        emit.append(time.perf_counter() - start)
    made = second.architecture
    n_operations = len(made.dataflow.operations)
    print(f"ResNet-50, {made.n_parameters:,} parameters, {n_operations} operations, median of {repeats}:")
    print(f"  torch.export {middle(capture):.2f} s; added by hypernas {middle(convert) + middle(emit):.3f} s")
    print(f"  conversion {middle(convert):.3f} s; encoding and emission {middle(emit):.3f} s,")
    print(f"  of which reading and encoding {middle(encode):.3f} s")


def of_a_batch(ghn: GHN, repeats: int) -> None:
    space = load_space("cifar_cells")
    rng = random.Random(0)

    def networks(n: int) -> list[Architecture]:
        scale = space.default_scale
        for cells in range(3, 20):
            one = space.sample(random.Random(0), type(scale)(scale.input_shape, 10, 8, cells, 2))
            if len(one.operations) >= 200:
                break
        return [space.sample(rng, type(scale)(scale.input_shape, 10, 8, cells, 2)) for _ in range(n)]

    for size in (1, 16):
        seconds, nodes = [], []
        for _ in range(repeats):
            made = networks(16)
            nodes += [len(one.operations) for one in made]
            start = time.perf_counter()
            for i in range(0, 16, size):
                ghn.emit(made[i : i + size])
            seconds.append((time.perf_counter() - start) / 16)
        print(
            f"cell networks of {sum(nodes) / len(nodes):.0f} operations, in batches of {size}: "
            f"{middle(seconds) * 1e3:.1f} ms a network"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ghn", type=Path, help="a checkpoint; without one, an untrained GHN")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    ghn = load_checkpoint(args.ghn)[0] if args.ghn else GHN()
    of_a_batch(ghn, args.repeats)
    of_a_module(ghn, args.repeats)


if __name__ == "__main__":
    main()
