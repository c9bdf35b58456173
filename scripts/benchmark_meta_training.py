"""Architecture-steps a second of meta-training on one core, and what each piece of it is worth, in one run.

Variants take turns, so that a noisy machine slows all of them alike; seconds are of the process, not of the clock.

    python scripts/benchmark_meta_training.py --space nasbench201 --data cifar10 --data-dir D
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from hypernas.data import load_dataset
from hypernas.graphs import primitives
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.decoders.coordinate import CoordinateHead
from hypernas.hypernet.meta_train import MetaSettings, _Trainer
from hypernas.runtime import WorkerPool, keep_freed_memory
from hypernas.spaces.finding import load_space

Variant = Callable[[], contextlib.AbstractContextManager[Any]]


def torch_pooling() -> contextlib.AbstractContextManager[Any]:
    def pool(x: torch.Tensor, kernel: Any, stride: Any, padding: Any) -> torch.Tensor:
        return F.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)

    return mock.patch.object(primitives, "average_pool2d", pool)


def contiguous_images() -> contextlib.AbstractContextManager[Any]:
    images = _Trainer._images

    def plain(self: _Trainer) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = images(self)
        return x.contiguous(), y

    return mock.patch.object(_Trainer, "_images", plain)


def no_sharing() -> contextlib.AbstractContextManager[Any]:
    at_kernel = CoordinateHead._at_kernel
    return mock.patch.object(CoordinateHead, "_at_kernel", lambda self, sizes, shared: at_kernel(self, sizes, None))


@contextlib.contextmanager
def all_three() -> Iterator[None]:
    with torch_pooling(), contiguous_images(), no_sharing():
        yield


VARIANTS: dict[str, Variant] = {
    "as it is": contextlib.nullcontext,
    "torch's own average pooling": torch_pooling,
    "images in NCHW": contiguous_images,
    "kernel codes for each group of parameters": no_sharing,
    "all three": all_three,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="Of 8 architectures and 64 images, a variant and round.")
    args = parser.parse_args()
    keep_freed_memory()
    space, dataset = load_space(args.space), load_dataset(args.data, args.data_dir)
    scale = space.scoring_scale(dataset.input_shape, dataset.n_classes)
    settings = MetaSettings(steps=10_000, meta_batch=8)
    trainers = {name: _Trainer(space, dataset, scale, settings, GHNConfig(), torch.device("cpu")) for name in VARIANTS}
    seconds = dict.fromkeys(VARIANTS, 0.0)
    with WorkerPool(torch.device("cpu"), 1) as pool:
        for round_ in range(args.rounds + 1):
            for name, variant in VARIANTS.items():
                with variant():
                    start = time.process_time()
                    for _ in range(args.steps):
                        trainers[name].advance(pool)
                    seconds[name] += (time.process_time() - start) * (round_ > 0)  # the first round warms up
    n = args.rounds * args.steps * settings.meta_batch
    for name, spent in seconds.items():
        print(f"{name:44s} {n / spent:6.1f} architecture-steps/s, {seconds['as it is'] / spent:.2f} of the first")


if __name__ == "__main__":
    main()
