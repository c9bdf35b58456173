"""One score from several signals, without any accuracy: each signal on the scale of a reference sample of the space.

A signal's value becomes the normal score that it would have among the reference architectures (van der Waerden 1952),
by interpolation between theirs, so that a single new architecture gets a number on the same scale as thousands, and
signals of any unit or spread can be averaged. The formula is the same for every space: nothing in it is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Z_MAX", "Fusion", "NormalScores"]

# Normal scores are cut here: far enough for any order among real networks, and finite for a network that is a constant.
Z_MAX = 6.0
TAIL = 0.1  # the share of the reference whose slope goes on beyond its ends
MIN_SLOPE_SHARE = 1e-9

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
    def of(cls, sample: Sequence[float]) -> NormalScores:
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

    def slope(self, value: float, width: float = 0.25) -> float:
        """How many normal scores a unit of the signal is worth around a value, over about ``width`` scores each way."""
        if len(self.values) < 2:
            return 0.0
        z = float(self(np.array([value]))[0])
        low, high = np.interp([z - width, z + width], self.scores, self.values)
        if high <= low:
            return 0.0
        a, b = self(np.array([low, high]))
        return float((b - a) / (high - low))

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
    """The mean of normal scores over signals.

    Attributes:
        reference: signal -> its values over the reference sample.
        noise: signal -> standard deviation of its normal score when images, labels and random weights are drawn anew.
    """

    reference: Mapping[str, tuple[float, ...]]
    noise: Mapping[str, float]

    @cached_property
    def scales(self) -> dict[str, NormalScores]:
        return {name: NormalScores.of(values) for name, values in self.reference.items()}

    def moved(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """Signal -> by how much it moves each score from that of a middling architecture: the parts of the sum."""
        return {name: scale(values[name]) / len(self.scales) for name, scale in self.scales.items()}

    def score(self, values: Mapping[str, Floats]) -> Floats:
        """(m,) scores, higher is better; a middling architecture of the space has about 0."""
        return np.sum(list(self.moved(values).values()), axis=0)

    @property
    def se(self) -> float:
        """Standard error of a score: what another draw of images and random weights would change."""
        return float(np.sqrt(sum(self.noise[name] ** 2 for name in self.scales)) / len(self.scales))

    def to_json(self) -> dict[str, Any]:
        return {"reference": {k: list(v) for k, v in self.reference.items()}, "noise": dict(self.noise)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fusion:
        return cls({k: tuple(v) for k, v in value["reference"].items()}, dict(value["noise"]))
