"""What a hypernetwork is given besides the architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypernas.errors import DataError, UsageError

__all__ = ["Given", "Support", "support_of"]


@dataclass(frozen=True, eq=False)
class Support:
    """A small labelled set of images that stands for a data set.

    Attributes:
        images: float32 (n, channels, height, width), normalised as the data set's images are.
        labels: int64 (n,), classes from 0; every class has an image.

    Raises:
        DataError: where images and labels do not make such a set.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        _check_labelled(self.images, self.labels, "A support set")
        if not bool((torch.bincount(self.labels) > 0).all()):
            raise DataError(
                "The labels of a support set count from 0, and each class has an image",
                value=sorted(set(self.labels.tolist())),
            )
        if not bool(torch.isfinite(self.images).all()):
            raise DataError("The images of a support set are finite")

    @property
    def n_classes(self) -> int:
        return int(self.labels.max()) + 1


@dataclass(frozen=True, eq=False)
class Given:
    """Values of the conditions; one for all architectures of a batch, or one for each.

    Attributes:
        task: a name, or one for each architecture.
        support: a support set, or one for each architecture, all of as many classes.
        images: (n_images, channels, height, width): those that the networks are about to see.
        noise: (noise_dim,), or (n, noise_dim) with a vector for each architecture.
    """

    task: str | Sequence[str] | None = None
    support: Support | Sequence[Support] | None = None
    images: Tensor | None = None
    noise: Tensor | None = None


def support_of(images: Tensor, labels: Tensor, k: int, *, seed: int = 0) -> Support:
    """k random images of each class.

    Args:
        images, labels: of a data set, such as ``Dataset.images("train")`` gives them.

    Raises:
        UsageError: where a class has fewer than k images, or k is below 1.
        DataError: where images and labels do not make a data set.
    """
    _check_labelled(images, labels, "What a support set is drawn from")
    counts = torch.bincount(labels)
    if not 1 <= k <= int(counts.min()):
        raise UsageError(
            f"k is from 1 to the images that the smallest class has ({int(counts.min())})", value=k, remedy="Use fewer."
        )
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for c in range(len(counts)):
        of_class = (labels == c).nonzero().flatten()
        rows.append(of_class[torch.randperm(len(of_class), generator=generator)[:k].to(of_class.device)])
    some = torch.cat(rows)
    return Support(images[some], labels[some])


def _check_labelled(images: Tensor, labels: Tensor, what: str) -> None:
    if images.dim() != 4 or labels.shape != (len(images),) or not images.numel():
        raise DataError(
            f"{what} has images (n, channels, height, width) and a label for each, n of at least 1",
            value=(tuple(images.shape), tuple(labels.shape)),
        )
    if not images.is_floating_point() or labels.dtype != torch.int64:
        raise DataError(
            f"{what} has normalised images in floating point and labels in int64",
            value=(images.dtype, labels.dtype),
            remedy='As hypernas.load_dataset(...).images("train") gives them.',
        )
    if int(labels.min()) < 0:
        raise DataError("Labels count from 0", value=int(labels.min()))
