"""What the figures show are the candidates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import kendalltau
from tracking_records import make_candidates

from hypernas.engine.records import Candidate
from hypernas.errors import UsageError
from hypernas.tracking import figures
from hypernas.tracking.tables import candidate_table, short


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    return make_candidates(40, 6)[0]


def scored(candidates: list[Candidate]) -> list[Candidate]:
    return [c for c in candidates if c.score is not None]


def texts(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(Text))


def test_histogram_counts_every_scored_candidate(candidates: list[Candidate]) -> None:
    figure = figures.score_histogram(candidates)
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == len(candidates) - 1
    assert "1 failed" in texts(figure)


@pytest.mark.parametrize("cost", ["params", "flops"])
def test_points_are_cost_and_score(candidates: list[Candidate], cost: str) -> None:
    axes = figures.score_against_cost(candidates, cost).axes[0]  # type: ignore[arg-type]
    everyone, trained = (np.asarray(c.get_offsets()) for c in axes.collections)
    np.testing.assert_allclose(everyone, [(getattr(c, cost), c.score) for c in scored(candidates)])
    np.testing.assert_allclose(trained, [(getattr(c, cost), c.score) for c in candidates if c.training])
    assert axes.get_xscale() == "log"
    assert {t.get_text() for t in axes.texts} == {"1", "2", "3", "4", "5", "6"}


def test_unknown_cost_is_an_error(candidates: list[Candidate]) -> None:
    with pytest.raises(UsageError, match="latency"):
        figures.score_against_cost(candidates, "latency")  # type: ignore[arg-type]


def test_labels_of_close_points_do_not_overlap(candidates: list[Candidate]) -> None:
    same = [dataclasses.replace(c, params=10_000, score=-1.0) for c in candidates[:6]]
    figure = figures.score_against_cost(same)
    figure.draw_without_rendering()
    # an annotation's own extent would include its line
    boxes = [Text.get_window_extent(t) for t in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_trained_accuracies_with_scipys_tau(candidates: list[Candidate]) -> None:
    figure = figures.score_against_trained(candidates)
    reports = [(c.score, c.training) for c in candidates if c.training]
    for axes, split in zip(figure.axes, ("val", "test"), strict=True):
        points = [(score, getattr(report, f"{split}_accuracy")) for score, report in reports]
        np.testing.assert_allclose(np.asarray(axes.collections[0].get_offsets()), points)
        tau = kendalltau(*zip(*points, strict=True)).statistic
        assert f"τ = {tau:.2f}, n = 6" in axes.get_title(loc="left")


def test_no_tau_of_two(candidates: list[Candidate]) -> None:
    title = figures.score_against_trained(candidates[:2]).axes[0].get_title(loc="left")
    assert "n = 2" in title
    assert "τ" not in title


def test_learning_curves_show_every_epoch(candidates: list[Candidate]) -> None:
    reports = {c.digest[:8]: c.training for c in candidates if c.training}
    figure = figures.learning_curves(reports)
    for axes, name in zip(figure.axes, ("loss", "accuracy"), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        for label, report in reports.items():
            np.testing.assert_allclose(lines[label], [getattr(e, f"val_{name}") for e in report.history])


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("n_trained", [0, 1])
def test_figures_of_few_candidates_can_be_drawn(n: int, n_trained: int) -> None:
    few = make_candidates(n, n_trained)[0] if n else []
    reports = {c.digest: c.training for c in few if c.training}
    drawn = [
        figures.score_histogram(few),
        figures.score_against_cost(few),
        figures.score_against_trained(few),
        figures.learning_curves(reports),
    ]
    for figure in drawn:
        figure.draw_without_rendering()
    if not reports:
        assert "nothing trained" in texts(drawn[2])
        assert "nothing trained" in texts(drawn[3])


def test_only_failed_candidates() -> None:
    failed = [dataclasses.replace(c, score=None, score_se=None) for c in make_candidates(2, 0)[0]]
    assert "no candidate has a score" in texts(figures.score_histogram(failed))
    assert "no candidate has a score" in texts(figures.score_against_cost(failed))


@pytest.mark.parametrize("n", [0, 1])
def test_table_has_the_same_types_whatever_is_missing(n: int, candidates: list[Candidate]) -> None:
    full, few = candidate_table(candidates), candidate_table(candidates[:n])
    assert list(few.columns) == list(full.columns)
    assert few.dtypes.tolist() == full.dtypes.tolist()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (950, "950"), (17_610, "17.6 k"), (3_310_000, "3.31 M"), (1_200_000_000, "1.20 G")]
)
def test_short_counts(count: int, text: str) -> None:
    assert short(count) == text
