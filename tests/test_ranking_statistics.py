"""Statistics of rankings against brute force over pairs and subsets, scipy, and the coverage of the intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hypernas.errors import UsageError
from hypernas.ranking.statistics import (
    PARTS,
    Estimate,
    Floats,
    bootstrap,
    estimate,
    kendall_tau,
    paired_tau_difference,
    part_sizes,
    ranking_statistics,
    spearman_rho,
    statistic_names,
    top_k,
    top_part,
    top_tau,
)

few_values = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=12)


def columns(pairs: list[tuple[int, int]]) -> tuple[Floats, Floats]:
    a, b = np.array(pairs, dtype=np.float64).T
    return a, b


def noisy(n: int, seed: int, correlation: float = 0.6) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    return correlation * truth + math.sqrt(1 - correlation**2) * rng.normal(size=n), truth


def tau_of_pairs(a: Floats, b: Floats) -> float:
    pairs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(len(a)), 2)]
    untied = math.prod(sum(pair[side] != 0 for pair in pairs) for side in (0, 1))
    return float(sum(x * y for x, y in pairs) / math.sqrt(untied)) if untied else math.nan


@given(few_values)
@settings(max_examples=100, deadline=None)
def test_tau_is_that_of_all_pairs_and_rho_is_scipys(pairs: list[tuple[int, int]]) -> None:
    a, b = columns(pairs)
    np.testing.assert_allclose(kendall_tau(a, b), tau_of_pairs(a, b))
    if np.ptp(a) and np.ptp(b):
        np.testing.assert_allclose(spearman_rho(a, b), stats.spearmanr(a, b).statistic)


@pytest.mark.parametrize("function", [kendall_tau, spearman_rho])
def test_no_order_no_correlation(function: object) -> None:
    assert callable(function)
    for a in (np.ones(5), np.arange(2.0)):
        assert math.isnan(function(a, np.arange(float(len(a)))))
        assert math.isnan(function(np.arange(float(len(a))), a))


@given(few_values, st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_top_k_is_the_mean_over_all_ways_to_break_ties(pairs: list[tuple[int, int]], k: int) -> None:
    score, truth = columns(pairs)
    best, mean = top_k(score, truth, k)
    if k > len(score):
        assert math.isnan(best) and math.isnan(mean)
        return
    last = np.sort(score)[-k]
    sure, tied = truth[score > last].tolist(), truth[score == last].tolist()
    chosen = [[*sure, *some] for some in itertools.combinations(tied, k - len(sure))]
    np.testing.assert_allclose(best, np.mean([max(some) for some in chosen]))
    np.testing.assert_allclose(mean, np.mean([np.mean(some) for some in chosen]))
    shuffled = np.random.default_rng(0).permutation(len(score))
    np.testing.assert_allclose(top_k(score[shuffled], truth[shuffled], k), (best, mean))


@pytest.mark.parametrize(
    ("n", "fraction", "size"), [(10, 0.5, 5), (11, 0.5, 6), (70, 0.1, 7), (20, 0.05, 1), (21, 0.05, 2), (3, 0.05, 1)]
)
def test_parts_are_of_the_truly_best(n: int, fraction: float, size: int) -> None:
    truth = np.random.default_rng(n).permutation(n).astype(np.float64)
    np.testing.assert_array_equal(np.sort(truth[top_part(truth, fraction)]), np.arange(n - size, n))


def test_ties_at_the_edge_of_a_part_are_in_it() -> None:
    truth = np.array([3.0, 2.0, 2.0, 2.0, 1.0, 0.0])
    np.testing.assert_array_equal(top_part(truth, 0.5), truth >= 2)
    score = np.array([4.0, 3.0, 2.0, 1.0, 9.0, 9.0])
    assert top_tau(score, truth, 0.5) == kendall_tau(score[:4], truth[:4])


@pytest.mark.parametrize("top", [1, 10])
def test_all_statistics_by_hand(top: int) -> None:
    score, truth = noisy(200, 1)
    by_score, by_truth = np.argsort(-score), np.argsort(-truth)
    expected = {"tau": stats.kendalltau(score, truth).statistic, "rho": stats.spearmanr(score, truth).statistic}
    for (name, _), n in zip(PARTS.items(), (100, 20, 10), strict=True):
        rows = by_truth[:n]
        expected[name] = stats.kendalltau(score[rows], truth[rows]).statistic
    expected["regret@1"] = truth.max() - truth[by_score[0]]
    expected[f"regret@{top}"] = truth.max() - truth[by_score[:top]].max()
    expected[f"best@{top}"], expected[f"mean@{top}"] = truth[by_score[:top]].max(), truth[by_score[:top]].mean()
    assert tuple(expected) == statistic_names(top)
    np.testing.assert_allclose(ranking_statistics(score, truth, top), list(expected.values()))
    sizes = part_sizes(truth, top)
    assert [sizes[name] for name in PARTS] == [100, 20, 10] and sizes["tau"] == 200


def test_a_perfect_score_has_no_regret_and_a_reversed_one_all_of_it() -> None:
    truth = np.arange(40.0)
    perfect = dict(zip(statistic_names(5), ranking_statistics(truth, truth, 5), strict=True))
    reverse = dict(zip(statistic_names(5), ranking_statistics(-truth, truth, 5), strict=True))
    assert perfect["tau"] == pytest.approx(1) and perfect["regret@1"] == perfect["regret@5"] == 0
    assert reverse["tau"] == pytest.approx(-1) and reverse["regret@1"] == 39 and reverse["regret@5"] == 35


# --- bootstrap ---


def test_resamples_are_drawn_from_all_rows_and_repeat_by_seed() -> None:
    seen: list[tuple[int, int]] = []
    draws = bootstrap(lambda rows: rows.astype(np.float64), 7, 50, 3, lambda done, total: seen.append((done, total)))
    assert draws.shape == (50, 7) and set(np.unique(draws)) == set(range(7))
    np.testing.assert_array_equal(draws, bootstrap(lambda rows: rows.astype(np.float64), 7, 50, 3))
    assert not np.array_equal(draws, bootstrap(lambda rows: rows.astype(np.float64), 7, 50, 4))
    assert seen == [(i, 50) for i in range(1, 51)]


def test_number_of_resamples() -> None:
    assert bootstrap(lambda rows: np.zeros(2), 5, 0, 0).size == 0
    with pytest.raises(UsageError, match="at least 40 resamples; got 39"):
        bootstrap(lambda rows: np.zeros(2), 5, 39, 0)


def test_interval_of_a_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(0).normal(size=400)
    draws = bootstrap(lambda rows: np.array(values[rows].mean()), 400, 2000, 0)
    found = estimate(float(values.mean()), draws, 400)
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


@pytest.mark.parametrize(
    ("value", "draws", "n_rows", "expected"),
    [
        (math.nan, np.zeros(100), 100, Estimate(None)),
        (0.5, np.zeros(100), 9, Estimate(0.5)),
        (0.5, np.zeros(0), 100, Estimate(0.5)),
        (0.5, np.full(100, math.nan), 100, Estimate(0.5)),
        (0.5, np.r_[np.full(6, math.nan), np.ones(94)], 100, Estimate(0.5)),
        (0.5, np.r_[np.full(5, math.nan), np.ones(95)], 100, Estimate(0.5, 1.0, 1.0)),
    ],
)
def test_what_cannot_be_computed_is_none(value: float, draws: Floats, n_rows: int, expected: Estimate) -> None:
    assert estimate(value, draws, n_rows) == expected


def test_sign_of_an_interval() -> None:
    cases = [Estimate(1, 0.1, 2), Estimate(-1, -2, -0.1), Estimate(1, -0.1, 2), Estimate(1, 0.0, 2), Estimate(1)]
    assert [case.sign for case in cases] == [1, -1, 0, 0, 0]


def test_intervals_of_tau_cover_the_true_tau() -> None:
    """Of bivariate normal data, tau is 2/π arcsin(correlation); 95 % of 120 intervals ± 3 standard errors."""
    true = 2 / math.pi * math.asin(0.6)
    covered = 0
    for seed in range(120):
        score, truth = noisy(60, seed)
        draws = bootstrap(
            lambda rows, s=score, t=truth: np.array(kendall_tau(s[rows], t[rows])),  # type: ignore[misc]
            60,
            100,
            seed,
        )
        found = estimate(kendall_tau(score, truth), draws, 60)
        assert found.low is not None and found.high is not None
        covered += found.low <= true <= found.high
    assert covered / 120 >= 0.88


def test_paired_differences_are_narrower_than_unpaired_ones() -> None:
    truth = np.random.default_rng(0).normal(size=150)
    base = truth + np.random.default_rng(1).normal(size=150)
    first, second = base + 0.1 * np.random.default_rng(2).normal(size=150), base
    paired = paired_tau_difference(first, second, truth, 200, 0)
    assert paired.value == pytest.approx(kendall_tau(first, truth) - kendall_tau(second, truth))
    single = bootstrap(lambda rows: np.array(kendall_tau(first[rows], truth[rows])), 150, 200, 0)
    assert paired.low is not None and paired.high is not None
    assert paired.high - paired.low < 0.4 * np.ptp(np.quantile(single, [0.025, 0.975]))
    same = paired_tau_difference(first, first, truth, 50, 0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
