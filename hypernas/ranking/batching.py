"""What everything that scores shares: fixed whole batches of images, and batches of architectures that fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from hypernas.data import Dataset
from hypernas.errors import DataError, DeviceError, NonFiniteError
from hypernas.graphs.architecture import Architecture

__all__ = ["VAL_BATCH", "Batches", "fixed_batches", "in_batches"]

VAL_BATCH = 256  # val images that share batch-norm statistics
EMIT = 16  # architectures emitted in one pass

Batches = tuple[tuple[Tensor, Tensor], ...]
R = TypeVar("R")


def fixed_batches(
    dataset: Dataset, split: str, n: int, size: int, resolution: int, device: torch.device, *, seed: int = 0
) -> Batches:
    """The first n images of a split in a random order, in equal whole batches of about ``size``: (images, labels).

    Batch norm uses the statistics of the batch, so that scores depend on the batches: they are fixed by the seed.

    Raises:
        DataError: where the split has fewer than two images.
    """
    images, labels = dataset.images(split, resolution=resolution, device=device)
    n = min(n, len(labels))
    if n < 2:
        raise DataError(f"{dataset.name}: scoring needs at least 2 {split} images", value=n, remedy="Add images.")
    # in a random order: a user's images come class by class, and batch norm would take one class's statistics
    some = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:n].to(device)
    n_batches = max(1, n // size)
    parts = some[: n // n_batches * n_batches].chunk(n_batches)
    return tuple((images[part].contiguous(memory_format=torch.channels_last), labels[part]) for part in parts)


def in_batches(
    architectures: Sequence[Architecture],
    run: Callable[[Sequence[Architecture]], list[R]],
    failed: Callable[[Architecture, str, float], R],
    images: str,
) -> list[R]:
    """``run`` over all, a batch at a time: smaller ones where memory does not last, or where one poisons the others.

    Args:
        run: one result for each architecture, in order, whatever else is in the batch.
        failed: (architecture, reason, seconds) -> the result of one whose emitted weights are not finite.
        images: for the message, the batch of images that did not fit.

    Raises:
        DeviceError: where even a single architecture does not fit into the device's memory.
    """
    found: list[R] = []
    for start in range(0, len(architectures), EMIT):
        found.extend(_some(architectures[start : start + EMIT], run, failed, images))
    return found


def _some(
    architectures: Sequence[Architecture],
    run: Callable[[Sequence[Architecture]], list[R]],
    failed: Callable[[Architecture, str, float], R],
    images: str,
) -> list[R]:
    start = time.perf_counter()
    try:
        return run(architectures)
    except torch.OutOfMemoryError:
        if len(architectures) == 1:
            raise DeviceError(
                "One architecture and one batch of val images fit into the device's memory",
                value=images,
                remedy="Use --score-images with fewer images, or --device cpu.",
            ) from None
        size = len(architectures) // 2  # halves give the same results: emission does not depend on the batch
    except NonFiniteError as error:
        if len(architectures) == 1:
            return [failed(architectures[0], f"emitted weights: {error.rule}", time.perf_counter() - start)]
        size = 1
    # out of the handlers: the error's traceback held on to the memory of the pass that failed
    parts = (architectures[i : i + size] for i in range(0, len(architectures), size))
    return [one for part in parts for one in _some(part, run, failed, images)]
