"""What a data set is: labelled images in three splits, kept as uint8, and normalised when asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hypernas.data.augmentation import Augmentation
from hypernas.data.splits import fingerprint, stratified_take
from hypernas.errors import UsageError, close_matches

__all__ = ["SPLITS", "Dataset", "Split", "assemble"]

SPLITS = ("train", "val", "test")

_CHUNK = 4096
"""Images converted to float at a time: 50 MB of float32 for CIFAR-10, whatever the size of the split."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Attributes:
        images: uint8 (n, channels, height, width).
        labels: int64 (n,), classes from 0.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, positions: npt.NDArray[np.int64]) -> Split:
        """The images at these positions, copied."""
        index = torch.from_numpy(positions)
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in its three splits. Only `train` is trained on, `val` is chosen by, and `test` chooses nothing.

    Attributes:
        name: "digits", "cifar10", "fashion_mnist", or the stem of the user's file or folder.
        fingerprint: 16 hex digits over images, labels and splits: two data sets with one fingerprint are the same.
        source: the path that it was read from, or "scikit-learn".
        augmentation: the default for training at full resolution.
        mean, std: of each channel over the train split, for pixels in 0..1.
    """

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str
    source: str
    augmentation: Augmentation
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of each image at full resolution."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def split(self, name: str) -> Split:
        """The split called "train", "val" or "test". Raises UsageError for another name."""
        if name not in SPLITS:
            raise UsageError("A split is train, val or test.", value=name, remedy=close_matches(name, SPLITS))
        found: Split = getattr(self, name)
        return found

    def images(
        self, split: str, *, resolution: int | None = None, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Normalised images of a split, and their labels.

        Args:
            split: "train", "val" or "test".
            resolution: side in pixels that images are average-pooled to; None for full resolution.
            device: where both tensors are made.

        Returns:
            float32 (n, channels, height, width) in ``torch.channels_last`` with mean 0 and std 1 over the train
            split (before pooling), and int64 (n,).

        Raises:
            UsageError: no such split, or a resolution that is below 1 or above that of the images.
        """
        chosen = self.split(split)
        channels, *size = self.input_shape
        if resolution is not None:
            if not 1 <= resolution <= min(size):
                raise UsageError(
                    f"The resolution of {self.name} is between 1 and {min(size)} pixels: images are pooled, never "
                    "enlarged.",
                    value=resolution,
                )
            size = [resolution, resolution]
        result = torch.empty(
            (len(chosen), channels, *size), device=device, memory_format=torch.channels_last, dtype=torch.float32
        )
        mean = torch.tensor(self.mean, device=device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=device).view(-1, 1, 1)
        for start in range(0, len(chosen), _CHUNK):
            pixels = chosen.images[start : start + _CHUNK].to(device).float() / 255
            if resolution is not None:
                pixels = torch.nn.functional.adaptive_avg_pool2d(pixels, resolution)
            result[start : start + _CHUNK] = (pixels - mean) / std
        return result, chosen.labels.to(device)


def assemble(
    name: str,
    *,
    train: Split,
    val: Split | int,
    test: Split | int,
    class_names: tuple[str, ...],
    source: str,
    augmentation: Augmentation,
) -> Dataset:
    """A data set from its parts. A ``val`` or ``test`` given as a number is taken out of ``train``, stratified."""
    if isinstance(test, int):
        test, train = _take(train, test)
    if isinstance(val, int):
        val, train = _take(train, val)
    mean, std = _statistics(train.images)
    parts = {"train": train, "val": val, "test": test}
    named = ((part, split.images.numpy(), split.labels.numpy()) for part, split in parts.items())
    return Dataset(
        name=name,
        train=train,
        val=val,
        test=test,
        class_names=class_names,
        fingerprint=fingerprint(named),
        source=source,
        augmentation=augmentation,
        mean=mean,
        std=std,
    )


def _take(split: Split, n: int) -> tuple[Split, Split]:
    taken, rest = stratified_take(split.labels.numpy(), n)
    return split.select(taken), split.select(rest)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels in 0..1, from histograms: the same on every machine."""
    level = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        mean = float((counts * level).sum() / counts.sum())
        std = float((counts * (level - mean) ** 2).sum() / counts.sum()) ** 0.5
        means.append(mean)
        # A channel that never varies carries nothing: dividing it by 1 leaves it at zero instead of at NaN.
        stds.append(std if int((counts > 0).sum()) > 1 else 1.0)
    return tuple(means), tuple(stds)
