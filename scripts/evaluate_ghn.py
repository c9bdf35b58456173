"""Accuracy of emitted weights over unseen architectures: mean and best, on val images.

Unseen: of the held-out part of the space (by digest), which meta-training never samples.

    python scripts/evaluate_ghn.py --data cifar10 --data-dir DIR --architectures 500
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path

import torch

from hypernas.data import load_dataset
from hypernas.hypernet.checkpoint import load_checkpoint
from hypernas.hypernet.finding import find_ghn
from hypernas.hypernet.meta_train import sample_architectures
from hypernas.ranking.scoring import Scorer
from hypernas.runtime import WorkerPool, keep_freed_memory
from hypernas.spaces.finding import load_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--ghn", type=Path)
    parser.add_argument("--architectures", type=int, default=500)
    parser.add_argument("--images", type=int, default=1024)
    args = parser.parse_args()
    keep_freed_memory()
    space, dataset = load_space(args.space), load_dataset(args.data, args.data_dir)
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    found = find_ghn(space, dataset, scale, args.ghn)
    if found is None:
        raise SystemExit("no GHN for this space and data: make one with hypernas pretrain")
    ghn, info, _ = load_checkpoint(found.path)
    device = torch.device("cpu")
    architectures = sample_architectures(space, scale, args.architectures, random.Random("unseen"), held_out=True)
    with WorkerPool(device) as pool:
        scores = Scorer(ghn, dataset, scale, device, n_images=args.images).score(architectures, pool)
    accuracy = [score.accuracy for score in scores if score.accuracy is not None]
    print(f"{found.path.name}: {info.architecture_steps:,} architecture-steps, {info.seconds / 60:.0f} min")
    print(
        f"{len(accuracy)} unseen architectures of {space.name} at {scale.name}, {args.images} val images of "
        f"{dataset.name}: accuracy with emitted weights mean {statistics.mean(accuracy):.1f} %, best "
        f"{max(accuracy):.1f} %, worst {min(accuracy):.1f} %, sd {statistics.stdev(accuracy):.1f}"
    )


if __name__ == "__main__":
    main()
