"""Accuracy of emitted weights on the held-out splits of `deepnets`, and on ResNet-50, from val images.

No network of a split was meta-trained on: by digest, or because none in the train part is so wide, deep or dense. With
several checkpoints, one line each: the curve over the budget of meta-training.

    python scripts/evaluate_splits.py --data cifar10 --data-dir DIR --networks 100 [--ghn FILE ...]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.data import load_dataset
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.tracing import trace
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.finding import find_general_ghn
from hypernas.hypernet.ghn import GHN
from hypernas.hypernet.modules import emit_for_architecture
from hypernas.hypernet.splits import sample_split
from hypernas.networks.interpreter import compile_program
from hypernas.runtime import WorkerPool, keep_freed_memory, resolve_device
from hypernas.spaces.finding import load_space

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from zoo.residual import resnet50

BATCH = 128  # batch norm uses the statistics of each such batch


def accuracy(ghn: GHN, architecture: Architecture, images: Tensor, labels: Tensor) -> float:
    """Val accuracy in per cent; 0 where logits are not finite."""
    weights, _ = emit_for_architecture(ghn, architecture, images[:32])
    program = compile_program(architecture)
    hits = 0
    with torch.inference_mode():
        for i in range(0, len(labels), BATCH):
            logits = program.run(images[i : i + BATCH], weights)
            if torch.isfinite(F.cross_entropy(logits, labels[i : i + BATCH])):
                hits += int((logits.argmax(1) == labels[i : i + BATCH]).sum())
    return hits / len(labels) * 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--ghn", type=Path, nargs="*")
    parser.add_argument("--networks", type=int, default=100, help="of each split")
    parser.add_argument("--images", type=int, default=1024, help="val images")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    keep_freed_memory()
    dataset, space = load_dataset(args.data, args.data_dir), load_space("deepnets")
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    device = resolve_device(args.device)
    small = dataset.images("val", resolution=scale.input_shape[1], device=device)
    full = dataset.images("val", device=device)
    n = min(args.images, len(small[1])) // BATCH * BATCH
    splits = {
        name: sample_split(space, scale, name, args.networks, random.Random(f"report {name}"))
        for name in ("test", "wide", "deep", "dense", "bn_free")
    }
    big = trace(resnet50(num_classes=dataset.n_classes), input_shape=dataset.input_shape).architecture
    for path in args.ghn or [find_general_ghn(dataset).path]:
        ghn, info, _ = load_checkpoint(path, device)
        print(
            f"{path.name}: {info.total_architecture_steps:,} architecture-steps, {info.total_seconds / 60:.0f} min",
            flush=True,
        )
        with WorkerPool(device, args.workers) as pool:
            for name, members in splits.items():
                start = time.perf_counter()
                found = pool.map(lambda a, ghn=ghn: accuracy(ghn, a, small[0][:n], small[1][:n]), members)
                print(
                    f"  {name:8} mean {statistics.mean(found):5.1f} %  best {max(found):5.1f} %  "
                    f"sd {statistics.stdev(found):4.1f}  of {len(found)} networks at {scale.name}, {n} val images, "
                    f"{time.perf_counter() - start:.0f} s",
                    flush=True,
                )
            value = accuracy(ghn, big, full[0][:n], full[1][:n])
            print(f"  ResNet-50 at {dataset.input_shape}: {value:.1f} %", flush=True)


if __name__ == "__main__":
    main()
