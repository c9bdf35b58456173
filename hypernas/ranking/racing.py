"""Scores more with less: a race, in which what is clearly beaten on a few images is not measured on all of them.

Every rung is a ranker with a reference sample of its own, measured on as many images as its candidates; the last one is
the full evaluation itself, so that the scores of those that reach it are the ones that they have without a race.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hypernas.data import Dataset
from hypernas.errors import UsageError
from hypernas.hypernet.ghn import GHN
from hypernas.interrupts import StopRequest
from hypernas.ranking.measuring import Counts, Measurer
from hypernas.ranking.ranker import Ranker, Signals, choose_signals, make_ranker
from hypernas.ranking.signals import SIGNALS
from hypernas.spaces.space import Scale, SearchSpace

__all__ = ["Rung", "make_rungs", "rung_error", "survivors"]

# Of the first rung, and the margin of the rule: chosen on cifar_cells, CIFAR-10. scripts/race_against_full.py measures
# what they keep of the full evaluation's best, and at what cost.
N_VAL, TRAIN_BATCH, N_DRAWS = 64, 32, 1
FACTOR = 8  # between the val images of two rungs
WORTH = 2  # times cheaper than the full evaluation is what a rung has to be
Z = 1.0
BEST = 0.25  # share of the reference sample that tells the error of a rung
MIN_REFERENCE = 16  # architectures: fewer tell no error

CHUNK = 256  # candidates compared with all others at a time

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rung:
    """One step of the race.

    Attributes:
        error: see ``rung_error``; 0 in the last.
        n_images: val images.
        n_evaluations: image evaluations of a candidate: images sent forward through its network, over all signals.
    """

    ranker: Ranker
    error: float
    n_images: int
    n_evaluations: int


def make_rungs(
    space: SearchSpace,
    dataset: Dataset,
    ghn: GHN,
    ghn_name: str,
    scale: Scale,
    device: torch.device,
    *,
    say: Callable[[str], None],
    stop: StopRequest | None = None,
    signals: Signals | None = None,
    n_val: int = 512,
    race: bool = True,
) -> tuple[Rung, ...]:
    """The rungs, the cheapest first; the last is the full evaluation. Measures reference samples unless they are kept.

    There is one alone without a race, and where a cheaper one would cost half of the full evaluation or more.

    Args:
        signals, n_val: of the full evaluation; see ``make_ranker``.
    """
    weights, measured = signals or choose_signals("default")

    def make(counts: Counts) -> Ranker:
        chosen = weights, measured
        return make_ranker(space, dataset, ghn, ghn_name, scale, device, say=say, stop=stop, signals=chosen, **counts)

    full = make({"n_val": n_val})
    last = Rung(full, 0.0, full.measurer.n_val, full.measurer.n_evaluations)
    rungs: list[Rung] = []
    fewer: Counts = {"n_val": N_VAL, "train_batch": TRAIN_BATCH, "n_draws": N_DRAWS}
    while race and fewer["n_val"] < last.n_images:
        cost = Measurer(space, ghn, dataset, scale, measured, device, **fewer).n_evaluations
        if WORTH * cost >= last.n_evaluations:
            break
        cheap = make(fewer)
        error = rung_error(cheap, full)
        if error is not None:
            rungs.append(Rung(cheap, error, cheap.measurer.n_val, cost))
        fewer = {"n_val": fewer["n_val"] * FACTOR}  # the rest as in the full evaluation
    return (*rungs, last)


def rung_error(cheap: Ranker, full: Ranker) -> float | None:
    """Standard deviation of (full score - cheap score) over the best of the reference sample by cheap score.

    Over a quarter of it: the lower a score is, the farther it moves, and a race is decided among the best. None where
    the two references are not of the same architectures: some could be measured by one ranker alone.
    """
    first, second = (ranker.fusion.reference for ranker in (cheap, full))
    of_graph = [name for name in first if SIGNALS[name].weights == "none"]  # these are equal where networks are
    if any(first[name] != second[name] for name in of_graph):
        return None
    scores = [_reference_scores(ranker) for ranker in (cheap, full)]
    n = len(scores[0])
    if len(scores[1]) != n or n < MIN_REFERENCE:
        return None
    best = np.argsort(-scores[0], kind="stable")[: math.ceil(BEST * n)]
    return float(np.std((scores[1] - scores[0])[best], ddof=1))


def _reference_scores(ranker: Ranker) -> Floats:
    fusion = ranker.fusion
    return fusion.score({name: np.array(fusion.reference[name]) for name in fusion.weights})


def survivors(values: Floats, error: float, keep: int) -> NDArray[np.bool_]:
    """Who goes on to the next rung.

    A candidate is dropped when at least ``keep`` others beat it clearly: their score is higher by more than
    Z * sqrt(2) * error, the error of a difference of two scores, and every other objective is at least as good. With
    the score alone, that is whoever is below the ``keep``-th best by more than the margin.

    Args:
        values: (n, k), all to be maximised; column 0 is the score of this rung. NaN: could not be measured; dropped.
        error: of the rung.
        keep: how many the race is about, for example the best 10.

    Returns:
        (n,) True for those that go on.

    Raises:
        UsageError: for ``keep`` below 1.
    """
    if keep < 1:
        raise UsageError("A race is about at least 1 candidate", value=keep)
    values = np.asarray(values, dtype=np.float64)
    alive: NDArray[np.bool_] = ~np.asarray(np.isnan(values).any(axis=1))
    some = values[alive]
    if len(some) <= keep:
        return alive
    margin = Z * math.sqrt(2) * error
    if values.shape[1] == 1:
        threshold = np.partition(some[:, 0], -keep)[-keep]
        alive[alive] = some[:, 0] >= threshold - margin
        return alive
    alive[alive] = _times_beaten(some, margin) < keep
    return alive


def _times_beaten(values: Floats, margin: float) -> NDArray[np.intp]:
    found = np.empty(len(values), dtype=np.intp)
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK, None]
        beaten = values[None, :, 0] - margin > part[:, :, 0]
        for column in range(1, values.shape[1]):
            beaten &= values[None, :, column] >= part[:, :, column]
        found[start : start + CHUNK] = beaten.sum(axis=1)
    return found
