"""The images of a data set at the shape that a network takes, made batch by batch so that memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.data import Dataset, Split
from hypernas.errors import UsageError
from hypernas.evaluation.target import ImageShape

__all__ = ["Images", "at_shape", "check_memory", "check_shape", "fitted", "parse_shape"]

LARGEST_SIDE = 4096
CHUNK_VALUES = 1 << 24  # pixels converted at a time, 64 MiB of float32
MAX_TRAIN_BYTES = 8 << 30  # float32 images of all splits, which full training keeps in memory


def parse_shape(text: str) -> ImageShape:
    """``3,32,32`` -> (3, 32, 32). Raises UsageError for anything else."""
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(
            "--input-shape is channels,height,width in whole numbers", value=text, remedy="For example 3,32,32."
        )
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def check_shape(shape: ImageShape, dataset: Dataset) -> None:
    """Raises UsageError for a shape that the data set's images cannot be brought to."""
    channels, *sides = shape
    own = dataset.input_shape[0]
    if channels != own and not {channels, own} <= {1, 3}:
        raise UsageError(
            f"Images of {dataset.name} have {own} channels, and only grey and colour become each other",
            value=f"{channels} channels",
            remedy=f"Give --input-shape {own},{sides[0]},{sides[1]}.",
        )
    if not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise UsageError(f"Sides of --input-shape are between 1 and {LARGEST_SIDE} pixels", value=shape)


def fitted(images: Tensor, shape: ImageShape) -> Tensor:
    """Floating-point images (n, channels, height, width) -> (n, *shape): antialiased bilinear, grey <-> colour."""
    channels, *size = shape
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1)
    if list(images.shape[2:]) != size:
        images = F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
    return images


@dataclass(frozen=True, eq=False)
class Images:
    """Normalised images of one split, at a shape. Only train and val: nothing here can look at test images.

    Attributes:
        n: how many; the first of a fixed random order where that is not all of them.
    """

    dataset: Dataset
    split: str
    shape: ImageShape
    device: torch.device
    n: int

    @classmethod
    def of(cls, dataset: Dataset, split: str, shape: ImageShape, device: torch.device, n: int | None = None) -> Images:
        assert split in ("train", "val"), split
        check_shape(shape, dataset)
        n_all = len(dataset.split(split))
        return cls(dataset, split, shape, device, n_all if n is None else min(n, n_all))

    def __len__(self) -> int:
        return self.n

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(float32 images (n, *shape), int64 labels (n,)) with n = ``size`` but for the last."""
        chosen = self.dataset.split(self.split)
        # train images in random order, since batch statistics are taken on them, and a folder's come class by class
        order = torch.arange(self.n)
        if self.n < len(chosen) or self.split == "train":
            order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))[: self.n]
        mean = torch.tensor(self.dataset.mean, device=self.device).view(-1, 1, 1)
        std = torch.tensor(self.dataset.std, device=self.device).view(-1, 1, 1)
        for start in range(0, self.n, size):
            rows = order[start : start + size]
            pixels = chosen.images[rows].to(self.device).float() / 255
            yield fitted((pixels - mean) / std, self.shape).contiguous(), chosen.labels[rows].to(self.device)

    def whole_batches(self, size: int) -> Iterator[Tensor]:
        """Images in batches of one size: what batch statistics are taken on. A single one where there are fewer."""
        for images, _ in self.batches(min(size, self.n)):
            if len(images) == min(size, self.n):
                yield images


def check_memory(dataset: Dataset, shape: ImageShape) -> None:
    """Raises UsageError where the whole data set at this shape takes more memory than full training may."""
    n = sum(len(dataset.split(name)) for name in ("train", "val", "test"))
    if (n_bytes := 4 * n * math.prod(shape)) > MAX_TRAIN_BYTES:
        raise UsageError(
            f"Fine-tuning keeps all images in memory, in at most {MAX_TRAIN_BYTES >> 30} GiB",
            value=f"{n:,} images of {shape}: {n_bytes / 2**30:.0f} GiB",
            remedy="Fine-tune at a smaller --input-shape, or on fewer images.",
        )


def at_shape(dataset: Dataset, shape: ImageShape) -> Dataset:
    """The whole data set with its images at this shape, for full training, which keeps it in memory."""
    if shape == dataset.input_shape:
        return dataset
    check_shape(shape, dataset)
    mean, std = dataset.mean, dataset.std
    if shape[0] != len(mean):  # grey from colour has the mean of the channels' statistics, about
        mean, std = ((sum(of) / len(of),) * shape[0] for of in (mean, std))
    return replace(
        dataset,
        train=_resized(dataset.train, shape),
        val=_resized(dataset.val, shape),
        test=_resized(dataset.test, shape),
        augmentation=dataset.augmentation.at_resolution(shape[1], dataset.input_shape[1]),
        mean=mean,
        std=std,
    )


def _resized(split: Split, shape: ImageShape) -> Split:
    images = torch.empty((len(split), *shape), dtype=torch.uint8)
    step = max(1, CHUNK_VALUES // math.prod(shape))
    for start in range(0, len(split), step):
        pixels = fitted(split.images[start : start + step].float(), shape)
        images[start : start + step] = pixels.round().clamp(0, 255).to(torch.uint8)
    return Split(images, split.labels)
