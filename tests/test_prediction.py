"""What is said of a search's prediction is what ``hypernas bench`` says of the same numbers."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
from tracking_records import make_candidates

from hypernas.engine.records import Candidate
from hypernas.ranking.benchmark import BenchmarkOptions, benchmark
from hypernas.ranking.statistics import Estimate
from hypernas.results.prediction import prediction


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    return make_candidates(30, 12)[0]


@pytest.mark.parametrize("split", ["val", "test"])
def test_tau_and_interval_are_those_of_bench(split: str, candidates: list[Candidate], tmp_path: Path) -> None:
    trained = [(c, c.training) for c in candidates if c.training]
    scores, truth = tmp_path / "scores.csv", tmp_path / "truth.csv"
    for path, column in ((scores, "score"), (truth, "accuracy")):
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["architecture", column])
            for c, report in trained:
                accuracy = report.val_accuracy if split == "val" else report.test_accuracy
                table.writerow([c.digest, repr(c.score if column == "score" else accuracy)])
    expected = benchmark(BenchmarkOptions(scores, truth)).score.statistics["tau"]
    found = prediction(list(reversed(candidates)))  # in whatever order
    assert (found.tau if split == "val" else found.tau_test) == expected
    assert expected.low is not None


def test_numbers_are_the_candidates(candidates: list[Candidate]) -> None:
    found = prediction(candidates)
    trained = [(c, c.training) for c in candidates if c.training]
    assert list(found.ranks) == [c.rank for c, _ in trained]
    assert list(found.scores) == [c.score for c, _ in trained]
    assert list(found.accuracies) == [report.val_accuracy for _, report in trained]
    assert list(found.test_accuracies) == [report.test_accuracy for _, report in trained]
    assert (found.n, found.n_scored) == (12, 29)


def test_caveat_names_the_restriction() -> None:
    candidates = make_candidates(30, 6)[0]
    assert "the best 6 of 29" in prediction(candidates).caveat
    some = [dataclasses.replace(c, training=None if c.rank == 2 else c.training) for c in candidates]
    assert "5 of the first 6 of 29" in prediction(some).caveat
    assert prediction(candidates[:5]).caveat == ""  # all were trained


@pytest.mark.parametrize("n", [0, 1, 2])
def test_no_tau_of_few(n: int, candidates: list[Candidate]) -> None:
    assert prediction(candidates[:n]).tau == Estimate(None)


def test_no_interval_below_ten(candidates: list[Candidate]) -> None:
    tau = prediction(candidates[:9]).tau
    assert tau.value is not None
    assert tau.low is None
    assert prediction(candidates[:10]).tau.low is not None
