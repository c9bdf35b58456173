"""What a hypernetwork is given besides the architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    def __post_init__(self) -> None:
        names = [self.task] if isinstance(self.task, str) else self.task
        if names is not None and not (isinstance(names, Sequence) and all(isinstance(name, str) for name in names)):
            raise UsageError("A task is a name, or names, one for each architecture", value=self.task)
        if self.support is not None and not all(isinstance(support, Support) for support in self.supports):
            raise UsageError(
                "A support set is a hypernas.Support, or one for each architecture",
                value=type(self.support).__name__,
                remedy="Make it with hypernas.support_of(images, labels, k), or hypernas.Support(images, labels).",
            )
        for what, value, n_axes in (("images", self.images, (4,)), ("noise", self.noise, (1, 2))):
            if value is not None and not (
                isinstance(value, Tensor) and value.dim() in n_axes and value.is_floating_point()
            ):
                raise UsageError(
                    f"Given {what} are a tensor in floating point with {' or '.join(map(str, n_axes))} axes",
                    value=(tuple(value.shape), value.dtype) if isinstance(value, Tensor) else type(value).__name__,
                )

    @property
    def supports(self) -> Sequence[Support]:
        if self.support is None:
            return ()
        return self.support if isinstance(self.support, Sequence) else (self.support,)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is given in numbers, by name."""
        found = {"given.images": self.images, "given.noise": self.noise}
        for i, support in enumerate(self.supports):
            found |= {f"given.support.{i}.images": support.images, f"given.support.{i}.labels": support.labels}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def on(self, device: torch.device) -> Given:
        """The same on another device."""
        moved = [Support(support.images.to(device), support.labels.to(device)) for support in self.supports]
        return Given(
            self.task,
            moved[0] if isinstance(self.support, Support) else moved or None,
            None if self.images is None else self.images.to(device),
            None if self.noise is None else self.noise.to(device),
        )

    def over(self, other: Given) -> Given:
        """These values, and the other's where there are none."""
        mine = {name: value for name, value in vars(self).items() if value is not None}
        return replace(other, **mine)


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
    some = support_rows(labels, k, seed=seed)
    return Support(images[some], labels[some])


def support_rows(labels: Tensor, k: int, *, seed: int = 0) -> Tensor:
    """Positions of k random images of each class, class by class."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for c in range(int(labels.max()) + 1):
        of_class = (labels == c).nonzero().flatten()
        rows.append(of_class[torch.randperm(len(of_class), generator=generator)[:k].to(of_class.device)])
    return torch.cat(rows)


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
