"""Running bests, against sorting every beginning."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracking_records import make_candidates

from hypernas.engine.records import Candidate
from hypernas.results.progress import progress, running_best


@given(st.lists(st.integers(-4, 4), max_size=30), st.integers(1, 5))
def test_running_best_against_sorting(values: list[int], k: int) -> None:
    found = running_best(np.array(values, dtype=np.float64), k)
    assert found.shape == (k, len(values))
    for i in range(len(values)):
        best = sorted(values[: i + 1], reverse=True)[:k]
        np.testing.assert_array_equal(found[:, i], [*best, *[math.nan] * (k - len(best))])


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    numbers = random.Random(1).sample(range(200), 40)  # others were infeasible
    return [dataclasses.replace(c, number=n) for c, n in zip(make_candidates(40, 0)[0], numbers, strict=True)]


def test_progress_follows_the_numbers(candidates: list[Candidate]) -> None:
    found = progress(candidates)
    some = sorted((c for c in candidates if c.score is not None), key=lambda c: c.number)
    scores = [c.score or 0.0 for c in some]
    assert found.proposed.tolist() == [c.number + 1 for c in some]
    assert found.best.tolist() == [max(scores[: i + 1]) for i in range(len(scores))]
    means = [np.mean(sorted(scores[: i + 1])[-10:]) for i in range(9, len(scores))]
    np.testing.assert_allclose(found.mean_best[9:], means)
    assert np.isnan(found.mean_best[:9]).all()
    assert found.reason == ""


def test_what_a_race_dropped_is_no_progress(candidates: list[Candidate]) -> None:
    full = [dataclasses.replace(c, n_images=300) for c in candidates]
    dropped = [dataclasses.replace(c, n_images=64, score=100.0, number=c.number + 500) for c in candidates]
    assert progress([*full, *dropped]).best.tolist() == progress(candidates).best.tolist()


def test_empty_with_a_reason(candidates: list[Candidate]) -> None:
    unknown = [dataclasses.replace(c, number=-1) for c in candidates]
    assert "order" in progress(unknown).reason
    assert "no candidate" in progress([]).reason
    assert len(progress(unknown).best) == len(progress([]).best) == 0
