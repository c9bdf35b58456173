"""Splits that are the same on every machine, and the fingerprint that names them.

The order of images comes from a hash of their position, not from a random number generator: streams of generators
may change between library versions, and a validation split that moves would compare scores on different images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["SPLIT_SEED", "apportion", "fingerprint", "stratified_take"]

Labels = npt.NDArray[np.int64]

SPLIT_SEED = 0
"""One seed for all data sets: all results everywhere are on the same images."""


def _hash(positions: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """splitmix64 (Steele, Lea & Flood 2014) of each position; constants are the published ones."""
    seeded = ((seed + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = positions * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seeded)  # array arithmetic wraps at 2**64, as it should
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def apportion(counts: Labels, n: int) -> Labels:
    """How many of ``n`` go to each class, in proportion to ``counts`` (largest remainder), at least one to each.

    The sum is ``n`` wherever ``n`` is at least the number of classes and no minimum of one pushes it above.
    """
    exact = counts * n / counts.sum()
    quota: Labels = np.maximum(1, np.floor(exact)).astype(np.int64)
    left = max(0, n - int(quota.sum()))
    largest_first = np.argsort(quota - exact, kind="stable")
    quota[largest_first[:left]] += 1
    return quota


def stratified_take(labels: Labels, n: int, *, seed: int = SPLIT_SEED) -> tuple[Labels, Labels]:
    """Positions of about ``n`` images with the class proportions of all, and the positions of the rest.

    Args:
        labels: (n_images,) classes; each class that occurs needs at least two images.
        n: how many to take; exact wherever each class has a share of at least one image (see ``apportion``).
        seed: names one of the possible splits.

    Returns:
        (taken, rest), each sorted, so that the images keep their order on disk.
    """
    key = _hash(np.arange(len(labels), dtype=np.uint64), seed)
    by_class = np.lexsort((key, labels))  # classes in order; within a class by hash
    counts = np.bincount(labels)
    quota = np.zeros_like(counts)
    quota[counts > 0] = apportion(counts[counts > 0], n)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_taken = rank < np.repeat(quota, counts)
    return np.sort(by_class[is_taken]), np.sort(by_class[~is_taken])


def fingerprint(parts: Iterable[tuple[str, npt.NDArray[np.uint8], Labels]]) -> str:
    """The first 16 hex digits of the sha256 over (split name, images, labels) of each part: it names the data."""
    digest = hashlib.sha256()
    for name, images, labels in parts:
        digest.update(f"{name} {images.shape} ".encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
