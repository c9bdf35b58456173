"""Where scoring spends its time: share of convolution, pooling and norm kernels, emission, and the rest.

python scripts/profile_scoring.py --data cifar10 --data-dir DIR
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from hypernas.data import load_dataset
from hypernas.hypernet.ghn import GHN
from hypernas.ranking.scoring import Scorer
from hypernas.runtime import WorkerPool, keep_freed_memory
from hypernas.spaces.finding import load_space

KERNELS = {
    "convolution": ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::thnn_conv2d", "aten::cudnn"),
    "norm": ("aten::native_batch_norm", "aten::native_group_norm", "aten::native_layer_norm"),
    "pooling": ("aten::max_pool2d", "aten::avg_pool2d", "aten::mean"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="cifar_cells")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--architectures", type=int, default=64)
    args = parser.parse_args()
    keep_freed_memory()
    space, dataset = load_space(args.space), load_dataset(args.data, args.data_dir)
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    device = torch.device("cpu")
    scorer = Scorer(GHN(), dataset, scale, device)
    rng = random.Random(0)
    with WorkerPool(device, 1) as pool:
        scorer.score([space.sample(rng, scale) for _ in range(8)], pool)
        architectures = [space.sample(rng, scale) for _ in range(args.architectures)]
        start = time.perf_counter()
        scorer.score(architectures, pool)
        plain = time.perf_counter() - start
        architectures = [space.sample(rng, scale) for _ in range(args.architectures)]
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            start = time.perf_counter()
            scorer.score(architectures, pool)
            total = time.perf_counter() - start
    events = profiler.key_averages()
    images = sum(len(y) for _, y in scorer.batches)
    print(
        f"{args.space} on {args.data} at {scale.name}, {images} val images: "
        f"{plain / args.architectures * 1e3:.1f} ms an architecture on one core ({args.architectures} architectures)"
    )
    kernels = 0.0
    for kind, names in KERNELS.items():
        seconds = sum(e.self_cpu_time_total for e in events if e.key.startswith(names)) / 1e6
        kernels += seconds
        print(f"  {kind:12s} {seconds / total:6.1%}")
    print(f"  together     {kernels / total:6.1%} (the profiler's own cost counts as the rest)")


if __name__ == "__main__":
    main()
