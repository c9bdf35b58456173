"""A data set as MLflow's pages show it: which images, how many, of which version."""

from __future__ import annotations

from hypernas.data import Dataset
from hypernas.data.datasets import SPLITS
from hypernas.tracking.delivery import DataFacts

__all__ = ["data_facts"]


def data_facts(dataset: Dataset) -> list[DataFacts]:
    """One entry a split; ``digest`` is the fingerprint of the whole set."""
    return [
        DataFacts(
            dataset.name,
            dataset.fingerprint,
            dataset.source,
            split,
            len(dataset.split(split)),
            dataset.input_shape,
            dataset.n_classes,
        )
        for split in SPLITS
    ]
