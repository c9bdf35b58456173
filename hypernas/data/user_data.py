"""Rules that every data set of a user has to keep, whatever file it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from hypernas.data.augmentation import Augmentation
from hypernas.data.datasets import Dataset, Split, assemble
from hypernas.errors import DataError

__all__ = ["MIN_IMAGES_PER_CLASS", "assemble_user_data", "to_split"]

MIN_IMAGES_PER_CLASS = 3
"""One for each of train, val and test."""

VAL_SHARE, TEST_SHARE = 0.15, 0.15
"""Of all images, where the user gives one set of images: 70 / 15 / 15."""

VAL_SHARE_OF_TRAIN = 0.1
"""Of the train images, where the user gives train and test, as for CIFAR-10."""


def to_split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Split:
    """A split of uint8 (n, channels, height, width) and int64 (n,)."""
    return Split(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels))


def assemble_user_data(path: Path, parts: dict[str, Split], class_names: Sequence[str]) -> Dataset:
    """A data set from what the user gave.

    Args:
        path: the file or folder; its stem names the data set.
        parts: "train" and, if the user made them, "val" and "test". A test split that is missing is 15% of all
            images and then so is val; otherwise a missing val split is 10% of train. Both are stratified.
        class_names: one for each class.

    The default augmentation shifts by an eighth of the image's side and flips nothing: whether a mirror image belongs
    to the same class is for the user to say.

    Raises:
        DataError: fewer than 2 classes, too few images of a class, or splits of different image shapes.
    """
    _check_shapes(path, parts)
    _check_counts(path, parts, class_names)
    n_train = len(parts["train"])
    if "test" in parts:
        test: Split | int = parts["test"]
        val = parts.get("val", round(n_train * VAL_SHARE_OF_TRAIN))
    else:
        test = round(n_train * TEST_SHARE)
        val = parts.get("val", round(n_train * VAL_SHARE))
    side = min(parts["train"].images.shape[-2:])
    return assemble(
        path.resolve().stem,
        train=parts["train"],
        val=val,
        test=test,
        class_names=tuple(class_names),
        source=str(path),
        augmentation=Augmentation(flip=False, crop_padding=side // 8, cutout=0),
    )


def _check_shapes(path: Path, parts: dict[str, Split]) -> None:
    shapes = {name: tuple(split.images.shape[1:]) for name, split in parts.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{path}: images of all splits must have one shape (channels, height, width)", value=shapes)


def _check_counts(path: Path, parts: dict[str, Split], class_names: Sequence[str]) -> None:
    """Every class needs an image in train after val and test, where not given, were taken out of it."""
    n_classes = len(class_names)
    if n_classes < 2:
        raise DataError(
            f"{path}: a data set must have at least 2 classes",
            value=list(class_names),
            remedy="With one class there is nothing to tell apart.",
        )
    counts = {name: torch.bincount(split.labels, minlength=n_classes) for name, split in parts.items()}
    in_all = torch.stack(list(counts.values())).sum(0)
    needed = 1 + ("val" not in parts) + ("test" not in parts)
    for index, name in enumerate(class_names):
        if (n := int(in_all[index])) < MIN_IMAGES_PER_CLASS:
            rule = f"{path}: each class must have at least {MIN_IMAGES_PER_CLASS} images; class {name!r} has too few"
        elif (n := int(counts["train"][index])) < needed:
            rule = f"{path}: each class must have at least {needed} train images; class {name!r} has too few"
        else:
            continue
        raise DataError(rule, value=n, remedy="Add images of it, or leave the class out.")
