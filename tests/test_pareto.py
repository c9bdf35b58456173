"""The front of score and one cost is what comparing every pair gives."""

from __future__ import annotations

import dataclasses
import random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypernas.engine.records import Candidate
from hypernas.errors import UsageError
from hypernas.results.pareto import Cost, pareto_front, pareto_rows


def candidate(rank: int, score: float | None, params: int, **more: object) -> Candidate:
    return Candidate(rank, f"{rank:064x}", {}, score, None, None, params, params, **more)  # type: ignore[arg-type]


def dominates(a: Candidate, b: Candidate) -> bool:
    assert a.score is not None
    assert b.score is not None
    no_worse = a.score >= b.score and a.params <= b.params
    return no_worse and (a.score > b.score or a.params < b.params)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), max_size=25))
def test_against_every_pair(values: list[tuple[int, int]]) -> None:
    some = [candidate(i + 1, float(score), params) for i, (score, params) in enumerate(values)]
    expected = [c for c in some if not any(dominates(other, c) for other in some)]
    front = pareto_front(some, "params")
    assert front == sorted(expected, key=lambda c: (c.params, c.rank))
    shuffled = random.Random(0).sample(some, len(some))
    assert pareto_front(shuffled, "params") == front


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 5)), min_size=1, max_size=25))
def test_rows_rise_in_both(values: list[tuple[float, float]]) -> None:
    scores, costs = np.array(values).T
    rows = pareto_rows(scores, costs)
    assert scores.argmax() in rows or scores.max() in scores[rows]
    assert costs.min() in costs[rows]
    assert np.all(np.diff(scores[rows]) >= 0)
    assert np.all(np.diff(costs[rows]) >= 0)


@pytest.mark.parametrize("cost", get_args(Cost))
def test_of_nobody(cost: Cost) -> None:
    assert pareto_front([], cost) == []


def test_who_cannot_be_on_it() -> None:
    best = candidate(1, 2.0, 50, n_images=300)
    out = [
        candidate(2, 9.0, 10, n_images=64),  # dropped by a race, on another scale
        candidate(3, 8.0, 10, n_images=300, error="over the limit"),
        candidate(4, None, 1, n_images=300),
        candidate(5, float("nan"), 1, n_images=300),
    ]
    assert pareto_front([*out, best], "params") == [best]
    assert pareto_front([best], "latency_ms") == []
    timed = dataclasses.replace(best, latency_ms=1.0)
    assert pareto_front([timed], "latency_ms") == [timed]


def test_unknown_cost() -> None:
    with pytest.raises(UsageError, match="latency_ms"):
        pareto_front([], "latency")  # type: ignore[arg-type]
