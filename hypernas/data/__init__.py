"""Data sets: found, fetched, verified, split the same way everywhere, normalised and augmented.

>>> data = load_dataset("digits")
>>> images, labels = data.images("val")
>>> tuple(images.shape), data.n_classes
((300, 1, 8, 8), 10)
"""

from hypernas.data.augmentation import Augmentation, augment
from hypernas.data.datasets import Dataset, Split
from hypernas.data.download import get
from hypernas.data.loading import load_dataset, resolve_data
from hypernas.data.official import Download, FileSpec, OfficialDataset
from hypernas.data.registry import DATASETS
from hypernas.data.storage import cache_folder, data_folder

__all__ = [
    "DATASETS",
    "Augmentation",
    "Dataset",
    "Download",
    "FileSpec",
    "OfficialDataset",
    "Split",
    "augment",
    "cache_folder",
    "data_folder",
    "get",
    "load_dataset",
    "resolve_data",
]
