"""How well a score ranks architectures: pure functions on 1-d arrays, one entry an architecture, higher is better.

Kendall's tau is tau-b (Kendall 1945), over all architectures and within the truly better ones; regret@k is what
choosing by the score costs. Intervals are percentile intervals of the bootstrap over architectures (Efron and
Tibshirani 1993, chapter 13). They stand for another draw of architectures from the same space, not for another training
of the same ones. Those of ``best`` and ``regret`` are rough: no resample holds an architecture better than the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypernas.errors import UsageError

__all__ = [
    "LEVEL",
    "MIN_RESAMPLES",
    "PARTS",
    "Estimate",
    "bootstrap",
    "estimate",
    "kendall_tau",
    "paired_tau_difference",
    "part_sizes",
    "ranking_statistics",
    "spearman_rho",
    "statistic_names",
    "top_k",
    "top_part",
    "top_tau",
]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

PARTS: Mapping[str, float] = {"tau_top_half": 0.5, "tau_top_decile": 0.1, "tau_top_5_percent": 0.05}
LEVEL = 0.95
MIN_RESAMPLES = 40  # 2.5 % of fewer is not even one resample
MIN_ROWS = 3  # of two rows tau is 1 or -1, whatever the score
MIN_INTERVAL_ROWS = 10  # fewer are in perfect order by chance too often, and then the interval is [1, 1]
MAX_UNDEFINED = (
    0.05  # share of resamples without a value (say, all rows of a part equal) that an interval may leave out
)


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95 % interval; None where it is not defined, or the rows are too few for an interval."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of zero; 0 where it does not, or there is none."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def kendall_tau(a: Floats, b: Floats) -> float:
    """Tau-b in O(n log n); NaN for fewer than three rows or where one side is all equal."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic) if _has_order(a, b) else math.nan


def spearman_rho(a: Floats, b: Floats) -> float:
    """The correlation of average ranks; NaN as for ``kendall_tau``."""
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1]) if _has_order(a, b) else math.nan


def _has_order(a: Floats, b: Floats) -> bool:
    return len(a) >= MIN_ROWS and bool(np.ptp(a) > 0) and bool(np.ptp(b) > 0)


def top_part(truth: Floats, fraction: float) -> NDArray[np.bool_]:
    """Mask of the truly best: truth at least that of the ceil(fraction n)-th best, so all of its ties are included."""
    k = _part_size(len(truth), fraction)
    return np.asarray(truth >= np.partition(truth, len(truth) - k)[len(truth) - k])


def _part_size(n: int, fraction: float) -> int:
    return max(1, math.ceil(fraction * n - 1e-9))  # a product such as 0.1 * 70 may lie a rounding error above 7


def top_tau(score: Floats, truth: Floats, fraction: float) -> float:
    """Tau-b within ``top_part``."""
    mask = top_part(truth, fraction)
    return kendall_tau(score[mask], truth[mask])


def top_k(score: Floats, truth: Floats, k: int) -> tuple[float, float]:
    """(best, mean) true value of the k with the highest scores; NaN where there are fewer than k.

    Where equal scores compete for the last places, it is the expectation over all ways to choose among them, so that
    neither depends on the order of a file.
    """
    if not 1 <= k <= len(score):
        return math.nan, math.nan
    last = np.partition(score, len(score) - k)[len(score) - k]
    sure, tied = truth[score > last], np.sort(truth[score == last])[::-1]
    places = k - len(sure)
    mean = (float(sure.sum()) + places * float(tied.mean())) / k
    floor = float(sure.max()) if len(sure) else -math.inf
    # the best of `places` out of t is the j-th worst with probability C(j-1, places-1) / C(t, places); from j = t down
    j = np.arange(len(tied), places, -1)
    chance = places / len(tied) * np.concatenate([[1.0], np.cumprod((j - places) / np.maximum(j - 1, 1))])
    best = float(chance @ np.maximum(tied[: len(chance)], floor))
    return min(best, max(float(tied[0]), floor)), mean  # the chances add up to 1 but for rounding


def statistic_names(top: int) -> tuple[str, ...]:
    """What ``ranking_statistics`` returns, in its order."""
    regrets = ("regret@1",) if top == 1 else ("regret@1", f"regret@{top}")
    return ("tau", "rho", *PARTS, *regrets, f"best@{top}", f"mean@{top}")


def ranking_statistics(score: Floats, truth: Floats, top: int = 10) -> Floats:
    """All ``statistic_names(top)``; NaN where one is not defined.

    tau, rho: over all rows. tau_top_*: see ``top_part``. regret@k: the best truth of all minus that of the k highest
    scores. best@k, mean@k: see ``top_k``.
    """
    best, mean = top_k(score, truth, top)
    best_one = top_k(score, truth, 1)[0]
    regrets = [truth.max() - value for value in ((best_one,) if top == 1 else (best_one, best))]
    parts = [top_tau(score, truth, fraction) for fraction in PARTS.values()]
    return np.array([kendall_tau(score, truth), spearman_rho(score, truth), *parts, *regrets, best, mean])


def part_sizes(truth: Floats, top: int = 10) -> dict[str, int]:
    """Rows that each of ``statistic_names(top)`` is computed from."""
    sizes = {name: int(top_part(truth, fraction).sum()) for name, fraction in PARTS.items()}
    return {name: sizes.get(name, len(truth)) for name in statistic_names(top)}


# --- bootstrap -----------------------------------------------------------------------------------------------------


def bootstrap(
    statistic: Callable[[Rows], Floats],
    n_rows: int,
    n_resamples: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Floats:
    """(n_resamples, \\*shape): the statistic on rows drawn with replacement.

    One resample serves everything that ``statistic`` computes from its row numbers (n_rows,), so the difference of two
    entries is a paired difference. The same seed and n_rows give the same resamples.

    Args:
        progress: told (done, total) after each.
    """
    draws = []
    for done, rows in enumerate(_resamples(n_rows, n_resamples, seed), start=1):
        draws.append(statistic(rows))
        progress(done, n_resamples)
    return np.array(draws, dtype=np.float64)


def _resamples(n_rows: int, n_resamples: int, seed: int) -> Iterator[Rows]:
    if n_resamples and n_resamples < MIN_RESAMPLES:
        raise UsageError(
            f"A bootstrap takes at least {MIN_RESAMPLES} resamples",
            value=n_resamples,
            remedy="Use 1000, or 0 for no intervals.",
        )
    rng = np.random.default_rng(seed)
    for _ in range(n_resamples):
        yield rng.integers(0, n_rows, n_rows)


def estimate(value: float, draws: Floats, n_rows: int) -> Estimate:
    """A value with the percentile interval of its draws (n_resamples,).

    No interval where ``n_rows`` is below 10, or where the statistic is undefined on more than 5 % of the resamples.
    """
    if not math.isfinite(value):
        return Estimate(None)
    defined = draws[np.isfinite(draws)]
    if n_rows < MIN_INTERVAL_ROWS or len(defined) < max(MIN_RESAMPLES, (1 - MAX_UNDEFINED) * len(draws)):
        return Estimate(float(value))
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def paired_tau_difference(first: Floats, second: Floats, truth: Floats, n_resamples: int, seed: int) -> Estimate:
    """Tau of ``first`` with the truth minus tau of ``second``, both on the same resamples."""

    def difference(rows: Rows) -> Floats:
        return np.array(kendall_tau(first[rows], truth[rows]) - kendall_tau(second[rows], truth[rows]))

    everything = np.arange(len(truth))
    draws = bootstrap(difference, len(truth), n_resamples, seed)
    return estimate(float(difference(everything)), draws, len(truth))
