"""Alternates ranking and training: what trained networks reached corrects the scores of all the others.

The first round trains candidates spread evenly over the ranking, so that the calibration sees good and bad ones; the
following rounds train those whose predicted accuracy could be highest (its mean plus one standard deviation: an upper
confidence bound, Srinivas et al. 2010).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hypernas.engine.records import Candidate
from hypernas.graphs.architecture import Architecture
from hypernas.ranking.calibration import MIN_TRAINED, Calibration
from hypernas.ranking.features import Features, architecture_features
from hypernas.ranking.ranker import Ranked

__all__ = ["N_ROUNDS", "Calibrator", "round_sizes"]

N_ROUNDS = 3


def round_sizes(n: int) -> list[int]:
    """How many networks each round trains; the first has what a calibration needs at least."""
    first = max(MIN_TRAINED, math.ceil(n / N_ROUNDS))
    sizes = [min(first, n)]
    while sum(sizes) < n:
        sizes.append(min(math.ceil(n / N_ROUNDS), n - sum(sizes)))
    return sizes


class Calibrator:
    """Remembers what is known of each candidate before training, in a few hundred bytes, and rescores them."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._prior = array("d")
        self._signals: dict[str, array[float]] = {}
        self._graph: dict[str, array[float]] = {}

    def add(self, architecture: Architecture, ranked: Ranked) -> None:
        """A candidate with a score; others are passed over."""
        if ranked.score is None or ranked.digest in self._rows:
            return
        self._rows[ranked.digest] = len(self._prior)
        self._prior.append(ranked.score)
        for table, values in ((self._signals, ranked.signals), (self._graph, architecture_features(architecture))):
            for name, value in values.items():
                table.setdefault(name, array("d")).append(value)

    def pick(self, candidates: Sequence[Candidate], trained: Mapping[str, float], n: int) -> list[Candidate]:
        """The next n to train, of candidates in rank order: spread evenly at first, then by upper confidence bound."""
        open_ = [row for row in candidates if row.digest in self._rows and row.digest not in trained]
        if not trained:
            places = np.unique(np.linspace(0, len(open_) - 1, min(n, len(open_))).round().astype(int))
            return [open_[i] for i in places]
        return sorted(open_, key=lambda row: -((row.score or 0.0) + (row.score_se or 0.0)))[:n]

    def rescore(self, candidates: Sequence[Candidate], trained: Mapping[str, float]) -> None:
        """Put the predicted accuracy (per cent) and its standard deviation in the place of score and standard error.

        Args:
            trained: digest -> val accuracy.

        Raises:
            UsageError, DataError: for too few networks, or such that are all equal.
        """
        graphs = {name: np.array(values) for name, values in self._graph.items()}
        rows = [{name: float(values[i]) for name, values in graphs.items()} for i in range(len(self._prior))]
        features = Features.of({name: np.array(values) for name, values in self._signals.items()}, rows)
        prior: NDArray[np.float64] = np.array(self._prior)
        known = np.array([self._rows[digest] for digest in trained])
        truth = np.array(list(trained.values()))
        fitted = Calibration.fit(
            features.values[known], prior[known], truth, candidates=(features.values, prior), weights=features.weights
        )
        mean, sd = fitted.predict(features.values, prior)
        for row in candidates:
            i = self._rows.get(row.digest)
            if i is not None:
                row.score, row.score_se = float(mean[i]), float(sd[i])
