"""Some classes of a data set are a data set: labels from 0, the images of those classes in their splits."""

from __future__ import annotations

import pytest
import torch

from hypernas.data import load_dataset
from hypernas.data.datasets import SPLITS
from hypernas.data.subset import only_classes
from hypernas.errors import UsageError


def test_the_images_of_the_classes_are_kept_in_their_splits_and_order() -> None:
    whole = load_dataset("digits")
    some = only_classes(whole, (7, 2, 5))
    assert some.class_names == ("7", "2", "5")
    assert some.n_classes == 3
    for name in SPLITS:
        before, after = whole.split(name), some.split(name)
        kept = [i for i, label in enumerate(before.labels.tolist()) if label in (7, 2, 5)]
        assert torch.equal(after.images, before.images[kept])
        assert [(7, 2, 5)[label] for label in after.labels.tolist()] == before.labels[kept].tolist()
        assert after.labels.dtype == torch.int64


def test_statistics_are_of_the_images_that_are_left() -> None:
    images, _ = only_classes(load_dataset("digits"), (0, 1)).images("train")
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_another_choice_of_classes_is_another_data_set() -> None:
    whole = load_dataset("digits")
    made = [whole, *(only_classes(whole, classes) for classes in ((0, 1), (1, 0), (0, 2), tuple(range(10))))]
    assert len({dataset.fingerprint for dataset in made}) == 4  # all classes in their order are the whole
    assert made[-1].fingerprint == whole.fingerprint
    assert len({dataset.name for dataset in made}) == len(made)


@pytest.mark.parametrize("classes", [(), (0, 0), (0, 10), (-1, 2)])
def test_classes_that_there_are_not_are_refused(classes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="each named once"):
        only_classes(load_dataset("digits"), classes)
