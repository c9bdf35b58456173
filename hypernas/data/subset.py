"""Some classes of a data set as a data set of its own: to hold classes back from meta-training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hypernas.data.datasets import Dataset, Split, assemble
from hypernas.errors import UsageError

__all__ = ["only_classes"]


def only_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """The images of these classes in their splits; labels count from 0 in the order given.

    Mean, standard deviation and fingerprint are those of the images that are left.

    Raises:
        UsageError: for no class, a class given twice, or one that the data set does not have.
    """
    wrong = [c for c in classes if not 0 <= c < dataset.n_classes]
    if not classes or wrong or len(set(classes)) < len(classes):
        raise UsageError(
            f"The classes that are kept of {dataset.name} are some of 0 to {dataset.n_classes - 1}, each named once",
            value=list(classes),
        )
    return assemble(
        f"{dataset.name}-{'-'.join(map(str, classes))}",
        train=_select(dataset.train, classes),
        val=_select(dataset.val, classes),
        test=_select(dataset.test, classes),
        class_names=tuple(dataset.class_names[c] for c in classes),
        source=dataset.source,
        augmentation=dataset.augmentation,
    )


def _select(split: Split, classes: Sequence[int]) -> Split:
    chosen = torch.tensor(classes)
    kept = torch.isin(split.labels, chosen).nonzero().flatten()
    labels = (split.labels[kept][:, None] == chosen).int().argmax(1)
    return Split(split.images[kept], labels)
