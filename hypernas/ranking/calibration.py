"""How much to trust each signal, learned from a few trained networks: a Gaussian process around the fused score.

With z the normal scores of the truth, f those of the fused score and x those of all features, each on the scale of the
candidates (Rasmussen and Williams 2006, chapter 2, with the mean fixed up to a constant)::

    z = b f + c + g(x) + noise,     c ~ N(0, 1),     g ~ GP(0, a^2 exp(-|x - x'|^2 / 2 l^2))

Ten points cannot tell the best (b, a, l, noise), and the likeliest misleads: the prediction is the mean over a grid of
them, weighted by marginal likelihood (Bayesian model averaging). Ranks of the truth make it the same for any monotone
unit, and indifferent to how bad the broken networks are; predictions are carried back by interpolation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hypernas.errors import DataError, UsageError
from hypernas.ranking.fusion import NormalScores

__all__ = ["MIN_TRAINED", "Calibration"]

Floats = NDArray[np.float64]

MIN_TRAINED = 3  # two ranks cannot speak against a score
# In standard deviations of the truth over the space; the length in those of a feature. The grid is around what ranked
# best on development rows of NAS-Bench-201, -101, DARTS and NAS-Bench-Macro (10 to 100 trained, medians of 20 to 60
# draws); five other grids moved the median tau by at most 0.002 on the first, and by at most 0.04 on the others.
SLOPES = (0.0, 0.4, 0.8)
AMPLITUDES = (0.25, 0.5, 1.0)
LENGTHS = (0.8, 1.2, 1.8)
NOISES = (0.2, 0.3, 0.5, 0.7)
MIN_SPREAD = 0.2  # of the trained networks' scores, where all were chosen for nearly the same one
NEGLIGIBLE = 0.004  # grid points of less weight are left out; the 108 of equal weight would have 0.009 each
MISFIT_WEIGHT = 10.0  # networks' worth of belief in the model's own spread, against its leave-one-out errors
TAIL = 0.2  # the share of the trained networks whose slope goes on beyond the best and the worst
CHUNK = 4096  # candidates predicted at a time: 4096 x 300 kernel values are 10 MB
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(15)


@dataclass(frozen=True)
class _Point:
    """A grid point given the trained networks; the posterior's mean is kernel @ alpha."""

    weight: float
    slope: float
    amplitude: float
    length: float
    noise: float
    alpha: Floats
    inverse: Floats


@dataclass(frozen=True)
class Calibration:
    """What was learned; made by ``fit``.

    Attributes:
        used: (d,) whether a feature differs between candidates; the others are ignored.
        left_out: (n,) what the other trained networks predict for each, in normal scores.
        misfit: how much larger those predictions' errors are than the model expects.
    """

    used: NDArray[np.bool_]
    left_out: Floats
    misfit: float
    _scales: tuple[NormalScores, ...]
    _score_scale: NormalScores
    _trained: Floats
    _weights: Floats
    _points: tuple[_Point, ...]
    _unit: tuple[Floats, Floats]

    @classmethod
    def fit(
        cls,
        features: Floats,
        prior: Floats,
        truth: Floats,
        *,
        candidates: tuple[Floats, Floats] | None = None,
        weights: Sequence[float] | Floats | None = None,
    ) -> Calibration:
        """Learn from trained networks. Deterministic; no unit of any argument matters, but for the order.

        Args:
            features: (n, d), of the trained networks; what is not finite counts as the lowest.
            prior: (n,) their fused scores.
            truth: (n,) their accuracies.
            candidates: features (m, d) and scores (m,) of all that will be predicted, which set the scale.
            weights: (d,) relative importance of the features, for families of unequal size; equal unless given.

        Raises:
            UsageError: for fewer than three networks.
            DataError: for a truth that is not finite, or equal for all.
        """
        features, prior, truth = (np.asarray(given, dtype=np.float64) for given in (features, prior, truth))
        _check(truth)
        pool, scores = (features, prior) if candidates is None else candidates
        scales = tuple(NormalScores.of(column.tolist()) for column in np.asarray(pool, dtype=np.float64).T)
        used = np.array([len(scale.values) > 1 for scale in scales], dtype=bool)
        scales = tuple(itertools.compress(scales, used))
        shares = np.ones(features.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
        shares = shares[used] / max(shares[used].sum(), 1e-12)
        score_scale = NormalScores.of(np.asarray(scores, dtype=np.float64).tolist())
        x, f = _scaled(features[:, used], scales, shares), score_scale(prior)
        z = _normal_scores(truth)
        # The trained may have been chosen: they then stand as close together in truth as they do in score.
        z = f.mean() + max(float(f.std()), MIN_SPREAD) * z
        points, left_out, misfit = _posterior(x, f, z)
        return cls(used, left_out, misfit, scales, score_scale, x, shares, points, _unit(z, truth))

    def predict(self, features: Floats, prior: Floats) -> tuple[Floats, Floats]:
        """(m, d) features and (m,) fused scores -> (m,) predicted accuracies, (m,) predictive standard deviations."""
        means, deviations = np.empty(len(prior)), np.empty(len(prior))
        features = np.asarray(features, dtype=np.float64)[:, self.used]
        f = self._score_scale(np.asarray(prior, dtype=np.float64))
        for start in range(0, len(f), CHUNK):
            part = slice(start, start + CHUNK)
            z, sd = self._latent(_scaled(features[part], self._scales, self._weights), f[part])
            values = _carry_back(z[:, None] + sd[:, None] * NODES, *self._unit)
            share = NODE_WEIGHTS / NODE_WEIGHTS.sum()
            means[part] = values @ share
            deviations[part] = np.sqrt(np.maximum((values - means[part, None]) ** 2 @ share, 0.0))
        return means, deviations

    def _latent(self, x: Floats, f: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the mixture over grid points, in normal scores."""
        squares = _squares(x, self._trained)
        mean, moment = np.zeros(len(f)), np.zeros(len(f))
        for point in self._points:
            k = _kernel(squares, point.amplitude, point.length)
            one = point.slope * f + k @ point.alpha
            variance = 1 + point.amplitude**2 - np.einsum("ij,ij->i", k @ point.inverse, k)
            mean += point.weight * one
            moment += point.weight * (self.misfit**2 * (np.maximum(variance, 0.0) + point.noise**2) + one**2)
        return mean, np.sqrt(np.maximum(moment - mean**2, 0.0))


def _check(truth: Floats) -> None:
    if len(truth) < MIN_TRAINED:
        raise UsageError(
            f"A calibration learns from at least {MIN_TRAINED} trained networks",
            value=len(truth),
            remedy="Train more; from ten on it begins to pay.",
        )
    if not np.isfinite(truth).all():
        raise DataError(
            "True accuracies are finite",
            value=float(truth[~np.isfinite(truth)][0]),
            remedy="Leave out the networks whose training failed.",
        )
    if truth.min() == truth.max():
        raise DataError(
            "Networks that differ in accuracy say which signal to trust; these are all equal",
            value=float(truth[0]),
            remedy="Train networks that the scores tell apart, or give accuracies with more digits.",
        )


def _scaled(features: Floats, scales: Sequence[NormalScores], shares: Floats) -> Floats:
    """Normal scores, times the root of each feature's share: the mean squared difference becomes a sum."""
    columns = [scale(column) * np.sqrt(share) for scale, column, share in zip(scales, features.T, shares, strict=True)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(features), 0))


def _normal_scores(values: Floats) -> Floats:
    from scipy.stats import norm, rankdata

    scores: Floats = norm.ppf((rankdata(values) - 0.5) / len(values))
    return scores


def _squares(a: Floats, b: Floats) -> Floats:
    squares: Floats = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T, 0.0)
    return squares


def _kernel(squares: Floats, amplitude: float, length: float) -> Floats:
    kernel: Floats = 1.0 + amplitude**2 * np.exp(squares * (-0.5 / length**2))
    return kernel


def _posterior(x: Floats, f: Floats, z: Floats) -> tuple[tuple[_Point, ...], Floats, float]:
    """The grid points that matter; leave-one-out predictions; their errors' size against the expected one."""
    squares = _squares(x, x)
    found: list[tuple[float, _Point]] = []
    for amplitude, length in itertools.product(AMPLITUDES, LENGTHS):
        values, vectors = np.linalg.eigh(_kernel(squares, amplitude, length))
        for noise, slope in itertools.product(NOISES, SLOPES):
            inverted = 1 / (np.maximum(values, 0.0) + noise**2)
            rest = vectors.T @ (z - slope * f)
            alpha, inverse = vectors @ (rest * inverted), (vectors * inverted) @ vectors.T
            likelihood = -0.5 * float((rest**2 * inverted).sum() - np.log(inverted).sum())
            found.append((likelihood, _Point(0.0, slope, amplitude, length, noise, alpha, inverse)))
    highest = max(likelihood for likelihood, _ in found)
    total = sum(np.exp(likelihood - highest) for likelihood, _ in found)
    kept = [(np.exp(likelihood - highest) / total, point) for likelihood, point in found]
    kept = [(weight, point) for weight, point in kept if weight >= NEGLIGIBLE]
    share = sum(weight for weight, _ in kept)
    points = tuple(replace(point, weight=float(weight / share)) for weight, point in kept)
    # leave-one-out errors: Rasmussen and Williams, equations 5.10 to 5.12
    errors = [(point.weight, point.alpha, np.diag(point.inverse)) for point in points]
    left_out: Floats = z - sum(weight * alpha / diagonal for weight, alpha, diagonal in errors)
    surprise = sum(weight * float((alpha**2 / diagonal).sum()) for weight, alpha, diagonal in errors)
    return points, left_out, float(np.sqrt((MISFIT_WEIGHT + surprise) / (MISFIT_WEIGHT + len(z))))


def _unit(z: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Normal scores and accuracies, ascending and distinct, with a point beyond either end for the slope there."""
    values, first = np.unique(truth, return_index=True)
    scores = z[first]
    step = max(1, int(TAIL * len(values)))
    span = 10.0
    low = (values[step] - values[0]) / (scores[step] - scores[0])
    high = (values[-1] - values[-1 - step]) / (scores[-1] - scores[-1 - step])
    return (
        np.concatenate([[scores[0] - span], scores, [scores[-1] + span]]),
        np.concatenate([[values[0] - span * low], values, [values[-1] + span * high]]),
    )


def _carry_back(z: Floats, scores: Floats, values: Floats) -> Floats:
    carried: Floats = np.interp(z, scores, values)
    return carried
