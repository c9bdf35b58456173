"""One score from several signals, without any accuracy: each signal on the scale of a reference sample of the space.

A signal's value becomes the normal score that it would have among the reference architectures (van der Waerden 1952),
by interpolation between theirs, so that a single new architecture gets a number on the same scale as thousands. The
score is the weighted mean over signals of the logarithm of that rank, as in AZ-NAS (Lee and Ham 2024, equation 12),
where the ranks are those among the candidates: whoever is bad at anything falls far. The formula is the same for every
space, and nothing in it is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Z_MAX", "Fusion", "NormalScores", "log_rank"]

# Normal scores are cut here: far enough for any order among real networks, and finite for a network that is a constant.
Z_MAX = 6.0
TAIL = 0.1  # the share of the reference whose slope goes on beyond its ends

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NormalScores:
    """Maps one signal to normal scores.

    Attributes:
        values: (n,) distinct values of the reference sample, ascending.
        scores: (n,) their normal scores; equal values share the mean of their ranks.
    """

    values: Floats
    scores: Floats

    @classmethod
    def of(cls, sample: Sequence[float] | Floats) -> NormalScores:
        """From the signal's values over the reference architectures; those that are not finite count as the lowest."""
        from scipy.stats import norm, rankdata

        finite = np.nan_to_num(np.asarray(sample, dtype=np.float64), nan=-np.inf, posinf=np.finfo(np.float64).max)
        ranks = rankdata(finite)
        known = np.isfinite(finite)
        values, first = np.unique(finite[known], return_index=True)
        return cls(values, norm.ppf((ranks[known][first] - 0.5) / len(finite)))

    def __call__(self, values: Floats) -> Floats:
        """(m,) -> (m,) in [-Z_MAX, Z_MAX]; what is not finite, or below everything imaginable, is at the floor.

        A signal that is constant over the reference says nothing: its score is 0.
        """
        if len(self.values) < 2:
            return np.where(np.isfinite(values), 0.0, -Z_MAX)
        z = np.interp(values, self.values, self.scores)
        n = len(self.values)
        step = max(1, int(TAIL * n))
        for end, inner, beyond in ((0, step, values < self.values[0]), (n - 1, n - 1 - step, values > self.values[-1])):
            span = self.values[inner] - self.values[end]
            slope = (self.scores[inner] - self.scores[end]) / span
            z = np.where(beyond, self.scores[end] + slope * (values - self.values[end]), z)
        return np.clip(np.where(np.isfinite(values), z, -Z_MAX), -Z_MAX, Z_MAX)

    @property
    def floor(self) -> float:
        """The value whose score is the lowest there is: what a network that ignores its input is given."""
        if len(self.values) < 2:
            return float(self.values[0]) if len(self.values) else 0.0
        step = max(1, int(TAIL * len(self.values)))
        slope = (self.scores[step] - self.scores[0]) / (self.values[step] - self.values[0])
        return float(self.values[0] - (Z_MAX + self.scores[0]) / slope)


@dataclass(frozen=True)
class Fusion:
    """The weighted mean over signals of log-ranks, each within the reference sample.

    Attributes:
        weights: of the signals that make the score.
        reference: signal -> its values over the reference sample; for more signals than those that are fused.
        noise: signal -> standard deviation of its normal score when images and random weights are drawn anew.
    """

    weights: Mapping[str, float]
    reference: Mapping[str, tuple[float, ...]]
    noise: Mapping[str, float]

    @cached_property
    def scales(self) -> dict[str, NormalScores]:
        return {name: NormalScores.of(values) for name, values in self.reference.items()}

    def moved(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """Signal -> by how much it moves each score: the parts of the sum. 0 is no move, as by a middling value."""
        total = sum(self.weights.values())
        return {name: log_rank(self.scales[name](values[name])) * (w / total) for name, w in self.weights.items()}

    def score(self, values: Mapping[str, Floats]) -> Floats:
        """(m,) scores, higher is better, at most 1; their mean over the space is about 0."""
        return np.asarray(np.sum(list(self.moved(values).values()), axis=0), dtype=np.float64)

    def se(self, values: Mapping[str, Floats]) -> Floats:
        """(m,) standard errors: what another draw of images and random weights would change, signals independent."""
        total = np.zeros_like(next(iter(values.values())), dtype=np.float64)
        for name, weight in self.weights.items():
            z = self.scales[name](values[name])
            step = 0.5 * self.noise[name]  # a difference quotient as wide as the noise, not the slope at one point
            total += ((log_rank(z + step) - log_rank(z - step)) * weight / sum(self.weights.values())) ** 2
        return np.asarray(np.sqrt(total), dtype=np.float64)


def log_rank(z: Floats) -> Floats:
    """Normal scores -> log of the rank's share of the sample, plus one: its mean over the sample is 0."""
    from scipy.special import log_ndtr

    return np.asarray(1.0 + log_ndtr(z), dtype=np.float64)
