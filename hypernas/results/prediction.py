"""How well the score before training foretold the accuracy after it, within one search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hypernas.engine.records import Candidate
from hypernas.ranking.statistics import MIN_INTERVAL_ROWS, Estimate, Floats, Rows, bootstrap, estimate, kendall_tau
from hypernas.results.scored import score_of, scored

__all__ = ["Prediction", "prediction"]

N_RESAMPLES, SEED = 1000, 0  # those of `hypernas bench`


@dataclass(frozen=True)
class Prediction:
    """One entry for each trained candidate, in order of rank.

    Attributes:
        ranks, digests: of the candidates.
        scores: before training.
        accuracies: val, after training, per cent.
        test_accuracies: after training, per cent.
        tau: Kendall's tau-b of scores and val accuracies with its 95 % bootstrap interval over candidates, as
            ``hypernas bench`` gives it; None of fewer than three, and without an interval of fewer than ten.
        tau_test: the same with test accuracies.
        n_scored: candidates with a score, trained or not.
        caveat: what tau does not say here, in a sentence; empty where all that have a score were trained.
    """

    ranks: tuple[int, ...]
    digests: tuple[str, ...]
    scores: tuple[float, ...]
    accuracies: tuple[float, ...]
    test_accuracies: tuple[float, ...]
    tau: Estimate
    tau_test: Estimate
    n_scored: int
    caveat: str

    @property
    def n(self) -> int:
        return len(self.scores)


def prediction(candidates: Sequence[Candidate]) -> Prediction:
    """Scores held against the accuracies of those that were trained."""
    some = scored(candidates)
    pairs = [(c, c.training) for c in sorted(some, key=lambda c: c.rank) if c.training is not None]
    pairs = [(c, report) for c, report in pairs if math.isfinite(report.val_accuracy)]
    scores = np.array([score_of(c) for c, _ in pairs], np.float64)
    val = np.array([report.val_accuracy for _, report in pairs], np.float64)
    test = np.array([report.test_accuracy for _, report in pairs], np.float64)
    return Prediction(
        ranks=tuple(c.rank for c, _ in pairs),
        digests=tuple(c.digest for c, _ in pairs),
        scores=tuple(scores.tolist()),
        accuracies=tuple(val.tolist()),
        test_accuracies=tuple(test.tolist()),
        tau=tau_estimate(scores, val),
        tau_test=tau_estimate(scores, test),
        n_scored=len(some),
        caveat=_caveat([c.rank for c, _ in pairs], len(some)),
    )


def tau_estimate(scores: Floats, truth: Floats) -> Estimate:
    """Kendall's tau-b and its 95 % interval; on the resamples that ``hypernas bench`` draws by default."""

    def tau(rows: Rows) -> Floats:
        return np.array(kendall_tau(scores[rows], truth[rows]))

    value = float(tau(np.arange(len(scores))))
    if not math.isfinite(value) or len(scores) < MIN_INTERVAL_ROWS:
        return estimate(value, np.empty(0), len(scores))
    return estimate(value, bootstrap(tau, len(scores), N_RESAMPLES, SEED), len(scores))


def _caveat(ranks: Sequence[int], n_scored: int) -> str:
    n = len(ranks)
    if not n or n >= n_scored:
        return ""
    who = f"the best {n:,}" if max(ranks) == n else f"{n:,} of the first {max(ranks):,}"
    return (
        f"Trained were {who} of {n_scored:,} in the ranking: within them the order says little, and tau here is not "
        "the tau of the whole space."
    )
