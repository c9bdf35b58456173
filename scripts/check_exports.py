"""Export random networks of all shipped spaces and compare each with the network itself.

    python scripts/check_exports.py --n 100

Prints a row a space: how many, the largest difference (in units of the largest logit, or of 1) of the standalone Python
source in evaluation and in training mode, that of ONNX in onnxruntime on batches of 1, 2 and 7, and seconds for each.
Exits with 1 where a difference is above 1e-4.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from exported_networks import SPACES, TOLERANCE, check_source, sample, save_network

from hypernas.exporting.formats import EXTENSIONS, export_network


def check(space: str, seed: int, formats: list[str]) -> dict[str, tuple[float, float]]:
    """Format -> (difference, seconds)."""
    found = {}
    architecture = sample(space, seed)
    start = time.perf_counter()
    found["python"] = check_source(architecture), time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        network = save_network(architecture, Path(folder) / "network")
        for name in formats:
            start = time.perf_counter()
            report = export_network(network, architecture, name, Path(folder) / f"model.{EXTENSIONS[name]}")
            assert report.difference is not None
            found[name] = report.difference, time.perf_counter() - start
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="networks in all, spread over the spaces")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--formats", nargs="*", default=["onnx"], choices=["onnx", "torch-export"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ["python", *options.formats]
    print(f"{'space':<12} {'n':>4}" + "".join(f"  {name + ' difference':>24} {'s each':>7}" for name in names))
    worst = 0.0
    for i, space in enumerate(SPACES):
        n = options.n // len(SPACES) + (i < options.n % len(SPACES))
        rows = [check(space, options.seed + k, options.formats) for k in range(n)]
        line = f"{space:<12} {n:>4}"
        for name in names:
            largest = max((row[name][0] for row in rows), default=0.0)
            worst = max(worst, largest)
            line += f"  {largest:>24.1e} {sum(row[name][1] for row in rows) / max(1, n):>7.2f}"
        print(line, flush=True)
    print(f"largest difference {worst:.1e}")
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
