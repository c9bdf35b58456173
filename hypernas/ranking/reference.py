"""The reference sample: fixed random architectures of a space, measured once; every score is relative to them."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hypernas.data import Dataset
from hypernas.errors import StoreError
from hypernas.graphs.architecture import Architecture
from hypernas.interrupts import StopRequest
from hypernas.ranking.fusion import NormalScores
from hypernas.ranking.measuring import Measurement, Measurer
from hypernas.ranking.signals import is_constant
from hypernas.runtime import WorkerPool
from hypernas.spaces.space import Scale, SearchSpace

__all__ = ["N_REFERENCE", "N_REPEATED", "load_reference", "measure_reference", "reference_sample", "save_reference"]

N_REFERENCE = 256
N_REPEATED = 64  # measured twice, for the noise of each signal
BATCH = 32

Reference = tuple[Mapping[str, tuple[float, ...]], Mapping[str, float]]


def reference_sample(space: SearchSpace, scale: Scale, n: int) -> list[Architecture]:
    """n distinct architectures whose output depends on the image, or as many as a small space has; always the same."""
    rng = random.Random("reference")
    found: dict[str, Architecture] = {}
    for _ in range(20 * n):
        if len(found) == n:
            break
        architecture = space.sample(rng, scale)
        if not is_constant(architecture):
            found.setdefault(architecture.digest, architecture)
    return list(found.values())


def measure_reference(measurer: Measurer, dataset: Dataset, n_val: int, stop: StopRequest | None = None) -> Reference:
    """Each signal's values over the sample, and the noise of its normal score: (reference, noise).

    The noise is the standard deviation between two draws of images and random weights, over sqrt(2).
    """
    sample = reference_sample(measurer.space, measurer.scale, N_REFERENCE)
    again = Measurer(
        *(measurer.space, measurer.ghn, dataset, measurer.scale, measurer.signals, measurer.device),
        n_val=n_val,
        train_batch=measurer.train_batch,
        n_draws=measurer.n_draws,
        seed=measurer.seed + 1,
    )
    with WorkerPool(measurer.device) as pool:
        first = _measure(measurer, sample, pool, stop)
        second = _measure(again, sample[:N_REPEATED], pool, stop)
    both = [(a, b) for a, b in zip(first, second, strict=False) if a.values and b.values]
    reference, noise = {}, {}
    for name in measurer.signals:
        reference[name] = tuple(m.values[name] for m in first if m.values)
        pairs = np.array([[a.values[name], b.values[name]] for a, b in both]).reshape(-1, 2)
        # each draw on its own scale: harder images lower every loss, which changes no rank
        z = [NormalScores.of(draw)(draw) for draw in pairs.T]
        noise[name] = float(np.sqrt(np.mean((z[0] - z[1]) ** 2) / 2)) if len(pairs) else 0.0
    return reference, noise


def _measure(
    measurer: Measurer, sample: Sequence[Architecture], pool: WorkerPool, stop: StopRequest | None
) -> list[Measurement]:
    found: list[Measurement] = []
    for start in range(0, len(sample), BATCH):
        if stop is not None:
            stop.check()
        found.extend(measurer.measure(sample[start : start + BATCH], pool))
    return found


def load_reference(path: Path, signals: Sequence[str]) -> Reference | None:
    """What ``save_reference`` wrote; None where there is nothing, or nothing that can be read."""
    try:
        value = json.loads(path.read_text())
        reference = {str(name): tuple(float(v) for v in values) for name, values in value["reference"].items()}
        noise = {str(name): float(v) for name, v in value["noise"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return (reference, noise) if set(signals) <= reference.keys() and set(signals) <= noise.keys() else None


def save_reference(path: Path, reference: Reference) -> None:
    """Keep it, atomically: two rankings may measure it at once.

    Raises:
        StoreError: where the cache folder cannot be written.
    """
    values, noise = reference
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"reference": {k: list(v) for k, v in values.items()}, "noise": dict(noise)}))
        temporary.replace(path)
    except OSError as error:
        raise StoreError(
            f"Reference samples can be kept in the cache folder ({error.strerror})",
            value=str(path.parent),
            remedy="Set HYPERNAS_CACHE to a folder that can be written.",
        ) from None
