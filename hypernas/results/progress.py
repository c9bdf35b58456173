"""How a search went: the best scores over the candidates proposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypernas.engine.records import Candidate
from hypernas.results.scored import finalists, scores_of

__all__ = ["N_MEAN", "Progress", "progress", "running_best"]

N_MEAN = 10  # of whose scores the mean is shown: steadier than the best one

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Progress:
    """One entry for each candidate with a score, in the order in which they were proposed; empty with a reason.

    Those that a race dropped have none: they were beaten, on a scale of their own.

    Attributes:
        proposed: (n,) how many had been proposed with this one, those without a score included; from 1.
        best: (n,) the best score so far.
        mean_best: (n,) the mean of the ten best scores so far; NaN before there are ten.
        reason: why there is nothing, in a sentence.
    """

    proposed: NDArray[np.int64]
    best: Floats
    mean_best: Floats
    reason: str = ""


def progress(candidates: Sequence[Candidate]) -> Progress:
    """The running best of a search, whatever order the candidates come in."""
    some = finalists(candidates)
    reason = "no candidate has a score" if not some else ""
    if any(c.number < 0 for c in some):
        reason = "the order in which the candidates were proposed is not known"
    if reason:
        return Progress(np.empty(0, np.int64), np.empty(0), np.empty(0), reason)
    numbers = np.fromiter((c.number for c in some), np.int64, len(some))
    order = np.argsort(numbers, kind="stable")
    best = running_best(scores_of(some)[order], N_MEAN)
    return Progress(numbers[order] + 1, best[0], best.mean(0))


def running_best(values: Floats, k: int) -> Floats:
    """(k, n): the best, second, ... k-th best of the first i values (n,), in column i - 1; NaN where there are fewer.

    A value that is not the best so far, or the best that it replaces, competes for the next place, and so on.
    """
    rows = np.full((k, len(values)), np.nan)
    left = values
    for row in range(min(k, len(values))):
        rows[row] = np.maximum.accumulate(left)
        before = np.concatenate([[-np.inf], rows[row][:-1]])
        left = np.minimum(left, before)
    rows[np.isneginf(rows)] = np.nan
    return rows
