"""Objectives, limits, Pareto fronts and hypervolume: against their definitions."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hypernas.engine.objectives import (
    OBJECTIVES,
    Costs,
    Limits,
    Objectives,
    amount_text,
    fronts,
    hypervolume,
    parse_amount,
)
from hypernas.errors import UsageError

COSTS = Costs(1_620_000, 212_000_000, 31.0, 21.3)


def points(k: int, *, most: int = 4, n: int = 25) -> st.SearchStrategy[NDArray[np.float64]]:
    """Small whole numbers, so that ties and copies are common."""
    row = st.tuples(*[st.integers(0, most)] * k)
    return st.lists(row, min_size=0, max_size=n).map(lambda rows: np.array(rows, dtype=float).reshape(-1, k))


def dominates(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    return bool((a >= b).all() and (a > b).any())


def fronts_by_definition(values: NDArray[np.float64]) -> list[int]:
    found = [0] * len(values)
    left = set(range(len(values)))
    number = 0
    while left:
        number += 1
        front = {i for i in left if not any(dominates(values[j], values[i]) for j in left)}
        for i in front:
            found[i] = number
        left -= front
    return found


# --- fronts --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5).flatmap(points))
def test_fronts_are_those_of_the_definition(values: NDArray[np.float64]) -> None:
    assert fronts(values).tolist() == fronts_by_definition(values)


@given(points(3), st.randoms(use_true_random=False))
def test_fronts_do_not_depend_on_the_order(values: NDArray[np.float64], rng: random.Random) -> None:
    order = rng.sample(range(len(values)), len(values))
    assert fronts(values[order]).tolist() == fronts(values)[order].tolist()


@pytest.mark.parametrize("k", (1, 2, 3))
def test_rows_with_nan_come_last(k: int) -> None:
    values = np.array([[0.0] * k, [1.0] * k, [math.nan] * k, [2.0] * (k - 1) + [math.nan]])
    assert fronts(values).tolist() == [2, 1, 3, 3]
    assert fronts(values[2:]).tolist() == [1, 1]


@pytest.mark.parametrize("k", (1, 2, 3))
def test_infinities_are_numbers_like_others(k: int) -> None:
    assert fronts(np.array([[-math.inf] * k, [math.inf] * k, [0.0] * k])).tolist() == [3, 1, 2]


@pytest.mark.parametrize(("n", "k"), ((100_000, 1), (100_000, 2), (10_000, 3), (10_000, 5)))
def test_many_points(n: int, k: int) -> None:
    """Whatever is in a front is dominated from the one before it; looked at for a few points."""
    values = np.random.default_rng(0).normal(size=(n, k))
    found = fronts(values)
    for i in np.random.default_rng(1).choice(n, 20, replace=False):
        above = (values >= values[i]).all(axis=1)
        above[i] = False
        assert found[i] == 1 + found[above].max(initial=0)


# --- hypervolume ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 4).flatmap(lambda k: points(k, n=12)))
def test_hypervolume_counts_the_cells_of_a_grid(values: NDArray[np.float64]) -> None:
    k = values.shape[1]
    cells = itertools.product(range(-1, 4), repeat=k)  # lower corners, from the reference on
    expected = sum(any((point > cell).all() for point in values) for cell in map(np.array, cells))
    assert hypervolume(values, [-1.0] * k) == pytest.approx(expected)


@pytest.mark.parametrize("k", (2, 3))
def test_hypervolume_against_monte_carlo(k: int) -> None:
    rng = np.random.default_rng(k)
    values = rng.uniform(size=(40, k))
    n = 40_000
    below = np.zeros(n, dtype=bool)
    samples = rng.uniform(size=(n, k))
    for point in values:
        below |= (samples < point).all(axis=1)
    share = below.mean()
    assert hypervolume(values, [0.0] * k) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / n))


def test_hypervolume_of_three_points_by_hand() -> None:
    """By inclusion and exclusion: boxes of 6, any two of them share a box of 2, all three one of 1."""
    values = [[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]]
    assert hypervolume(values, [0.0, 0.0, 0.0]) == 3 * 6 - 3 * 2 + 1


def test_what_is_not_above_the_reference_adds_nothing() -> None:
    values = [[1.0, 1.0], [9.0, -1.0], [0.0, 5.0], [math.nan, 9.0]]
    assert hypervolume(values, [0.0, 0.0]) == 1.0
    assert hypervolume(np.empty((0, 3)), [0.0, 0.0, 0.0]) == 0.0


@given(points(3, n=12), st.tuples(*[st.integers(0, 5)] * 3))
def test_a_further_point_never_takes_volume_away(values: NDArray[np.float64], point: tuple[int, int, int]) -> None:
    before = hypervolume(values, [-1.0] * 3)
    after = hypervolume(np.vstack([values, point]), [-1.0] * 3)
    beaten = any((value >= point).all() for value in values)
    assert (after == pytest.approx(before)) if beaten else (after > before)


# --- objectives ----------------------------------------------------------------------------------------------------


def test_objectives_are_read_and_the_score_leads() -> None:
    assert Objectives.parse("score").names == Objectives().names == ("score",)
    assert Objectives.parse("params, score ,latency").names == ("score", "params", "latency")


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("score,latancy", "'latency'"),
        ("score,params,params", "once"),
        ("params,flops", "score,params,flops"),
        ("", "Known"),
        ("score,", "Known"),
    ),
)
def test_objectives_that_cannot_be_used(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        Objectives.parse(text)


def test_values_are_all_to_be_maximised() -> None:
    objectives = Objectives(OBJECTIVES)
    values = objectives.values(0.5, COSTS)
    assert values == pytest.approx((0.5, *(-math.log10(x) for x in (1.62e6, 2.12e8, 21.3, 31.0))))
    smaller = Costs(1_000_000, 1_000_000, 10.0, 1.0)
    assert all(new > old for new, old in zip(objectives.values(0.6, smaller), values, strict=True))
    assert all(map(math.isfinite, objectives.values(0.0, Costs(0, 0, 0.0, 0.0))))


# --- limits --------------------------------------------------------------------------------------------------------


def test_limits_that_are_kept() -> None:
    for limits in (Limits(), Limits(1_620_000, 212_000_000, 21.3, 31.0)):
        limits.check()
        assert limits.violation(COSTS) == 0
        assert limits.broken(COSTS) == ""
    assert Limits(params=2e6).violation(Costs(1, 1)) == 0  # latency and memory were not asked for


def test_limits_that_are_broken() -> None:
    limits = Limits(params=1.5e6, latency_ms=20.0, memory_mb=40.0)
    assert limits.violation(COSTS) == pytest.approx(math.log(1.62 / 1.5) + math.log(21.3 / 20))
    assert limits.broken(COSTS) == "params 1.62M > 1.5M, latency 21.3 ms > 20 ms"
    assert Limits(flops=2e8, memory_mb=30).broken(COSTS) == "flops 212M > 200M, memory 31 MB > 30 MB"
    assert Limits(latency_ms=20).broken(Costs(1, 1, None, 20.0004)) == "latency 20.0004 ms > 20 ms"


@pytest.mark.parametrize("limit", (0.0, -1.0, math.nan, math.inf))
def test_limits_are_positive_and_finite(limit: float) -> None:
    with pytest.raises(UsageError, match="--max-memory-mb is positive"):
        Limits(memory_mb=limit).check()


def test_what_has_to_be_measured() -> None:
    assert not Limits(params=1.0).needs_latency(Objectives.parse("score,params"))
    assert Limits(latency_ms=1.0).needs_latency(Objectives())
    assert Limits().needs_latency(Objectives.parse("score,latency"))
    assert Limits(memory_mb=1.0).needs_memory(Objectives())
    assert Limits().needs_memory(Objectives.parse("score,memory"))
    assert not Limits(latency_ms=1.0).needs_memory(Objectives())


# --- amounts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    (("1.5M", 1.5e6), ("200k", 2e5), ("200K", 2e5), ("2G", 2e9), ("1e6", 1e6), ("950", 950), (" .5 m ", 5e5)),
)
def test_amounts(text: str, value: float) -> None:
    assert parse_amount(text, "--max-params") == value


@pytest.mark.parametrize("text", ("", "M", "1.5X", "1,5M", "-3", "0", "nan", "inf", "1e999", "1 000", "٣", "1_000"))
def test_amounts_that_cannot_be_used(text: str) -> None:
    with pytest.raises(UsageError, match="--max-params is a positive number"):
        parse_amount(text, "--max-params")


@given(st.floats(1e-3, 1e14))
def test_an_amount_is_read_back(value: float) -> None:
    assert parse_amount(amount_text(value, digits=17), "--x") == pytest.approx(value, rel=1e-12)
    assert parse_amount(amount_text(value), "--x") == pytest.approx(value, rel=1e-2)
