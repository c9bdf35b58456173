"""What the figures of scores show are the candidates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from tracking_records import make_candidates

from hypernas.engine.records import Candidate
from hypernas.errors import UsageError
from hypernas.results import figures
from hypernas.results.pareto import Cost, pareto_front
from hypernas.results.prediction import prediction
from hypernas.results.progress import progress
from hypernas.results.usage import usage


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    made = make_candidates(60, 6)[0]
    return [dataclasses.replace(c, number=(7 * i) % 60, latency_ms=0.3 + 0.01 * i) for i, c in enumerate(made)]


def scored(candidates: list[Candidate]) -> list[Candidate]:
    return [c for c in candidates if c.score is not None]


def texts(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(Text))


def points(axes: Axes, gid: str) -> list[np.ndarray]:
    return [np.asarray(c.get_offsets()) for c in axes.collections if c.get_gid() == gid]


def lines(axes: Axes, gid: str) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in axes.lines if line.get_gid() == gid]


def test_histogram_counts_every_scored_candidate(candidates: list[Candidate]) -> None:
    refused = [dataclasses.replace(candidates[0], error="over the limit of latency")] * 2
    figure = figures.score_histogram([*candidates, *refused])
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == len(candidates) - 1
    assert "(1 failed, 2 refused)" in texts(figure)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [c.score for c in candidates[:6]])


def test_histogram_tells_what_a_race_dropped(candidates: list[Candidate]) -> None:
    raced = [dataclasses.replace(c, n_images=300 if i < 20 else 64) for i, c in enumerate(candidates)]
    figure = figures.score_histogram(raced)
    final, both = figure.axes[0].containers
    assert sum(patch.get_height() for patch in final) == 20
    assert sum(patch.get_height() for patch in both) == 39
    assert "scored in full (20)" in texts(figure)
    assert "fewer images" in texts(figure)


@pytest.mark.parametrize("cost", ["params", "flops", "latency_ms"])
def test_points_are_cost_and_score(candidates: list[Candidate], cost: Cost) -> None:
    axes = figures.score_against_cost(candidates, cost).axes[0]
    (everyone,), (trained,), (front,) = points(axes, "all"), points(axes, "trained"), lines(axes, "front")
    np.testing.assert_allclose(everyone, [(getattr(c, cost), c.score) for c in scored(candidates)])
    np.testing.assert_allclose(trained, [(getattr(c, cost), c.score) for c in candidates if c.training])
    np.testing.assert_allclose(front, [(getattr(c, cost), c.score) for c in pareto_front(candidates, cost)])
    assert axes.get_xscale() == "log"
    assert {t.get_text() for t in axes.texts} == {"1", "2", "3", "4", "5", "6"}
    assert points(axes, "own front") == []


def test_own_front_and_what_a_race_dropped(candidates: list[Candidate]) -> None:
    raced = [dataclasses.replace(c, n_images=300 if i < 20 else 64) for i, c in enumerate(candidates)]
    for c in raced[:20]:
        c.front = 1 + c.rank % 3
    axes = figures.score_against_cost(raced).axes[0]
    (own,) = points(axes, "own front")
    np.testing.assert_allclose(own, [(c.params, c.score) for c in raced if c.front == 1])
    dropped, final = points(axes, "all")
    np.testing.assert_allclose(final, [(c.params, c.score) for c in raced[:20]])
    np.testing.assert_allclose(dropped, [(c.params, c.score) for c in scored(raced[20:])])


def test_many_points_are_one_bitmap(candidates: list[Candidate]) -> None:
    few, many = (figures.score_against_cost(scored(candidates) * n).axes[0].collections[0] for n in (1, 400))
    assert (few.get_rasterized(), many.get_rasterized()) == (False, True)


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


def test_labels_hide_no_point() -> None:
    made = make_candidates(12, 12)[0]
    figure = figures.predicted_against_trained(made)
    figure.draw_without_rendering()
    for axes in figure.axes:
        dots = axes.transData.transform(np.asarray(axes.collections[0].get_offsets()))
        boxes = [Text.get_window_extent(t) for t in axes.texts]
        assert not any(box.contains(*dot) for box in boxes for dot in dots)


@pytest.mark.parametrize("n_trained", [6, 12])
def test_trained_accuracies_with_tau_and_interval(n_trained: int) -> None:
    some = make_candidates(40, n_trained)[0]
    found = prediction(some)
    figure = figures.predicted_against_trained(some)
    shown = ((found.accuracies, found.tau), (found.test_accuracies, found.tau_test))
    for axes, (accuracies, tau) in zip(figure.axes, shown, strict=True):
        np.testing.assert_allclose(
            np.asarray(axes.collections[0].get_offsets()), list(zip(found.scores, accuracies, strict=True))
        )
        interval = " (no interval of fewer than ten)" if tau.low is None else f" [{tau.low:.2f}, {tau.high:.2f}]"
        assert f"τ = {tau.value:.2f}{interval}, n = {n_trained}" in axes.get_title(loc="left")
    assert found.caveat in texts(figure)


def test_no_tau_of_two(candidates: list[Candidate]) -> None:
    title = figures.predicted_against_trained(candidates[:2]).axes[0].get_title(loc="left")
    assert "n = 2: no τ" in title


def test_calibrated_scores_are_named(candidates: list[Candidate]) -> None:
    assert "predicted val accuracy (%)" in texts(figures.score_histogram(candidates, calibrated=True))


def test_progress_lines_are_the_progress(candidates: list[Candidate]) -> None:
    figure = figures.search_progress(
        {"random": candidates, "evolution": candidates[::2], "old": make_candidates(3, 0)[0]}
    )
    axes = figure.axes[0]
    for best, mean, some in zip(lines(axes, "best"), lines(axes, "mean"), (candidates, candidates[::2]), strict=True):
        expected = progress(some)
        assert best[-1].tolist() == [expected.proposed[-1], expected.best[-1]]
        at = dict(zip(expected.proposed.tolist(), expected.best.tolist(), strict=True))
        assert all(at[int(x)] == y for x, y in best)
        np.testing.assert_array_equal(mean, np.stack([expected.proposed, expected.mean_best], 1)[9:])
    assert "not shown: old" in texts(figure)
    assert {"random", "evolution"} <= set(texts(figure).split("\n"))


def test_usage_bars_are_the_differences(candidates: list[Candidate]) -> None:
    planted = [
        dataclasses.replace(c, decisions={**c.decisions, "first": "yes" if c.rank < 9 else "no"}) for c in candidates
    ]
    found = usage(planted)
    left, right = figures.usage_figure(found).axes
    bars = {t.get_text(): bar.get_width() for t, bar in zip(left.get_yticklabels(), left.patches, strict=True)}
    assert bars == pytest.approx({e.operation: e.difference.value for e in found.operations})
    names = [t.get_text() for t in right.get_yticklabels()]
    assert len(names) == 15
    assert "first = yes" in names
    assert "first = no" not in names  # its mirror image
    colours = {name: bar.get_facecolor() for name, bar in zip(names, right.patches, strict=True)}
    significant = {f"{e.decision} = {e.choice}" for e in found.choices if e.is_significant}
    for name in names:
        assert (colours[name] == colours["first = yes"]) == (name in significant)
    assert "Fisher" in texts(right.figure)
    assert "Mann-Whitney" in texts(right.figure)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("n_trained", [0, 1])
def test_figures_of_few_candidates_can_be_drawn(n: int, n_trained: int) -> None:
    few = make_candidates(n, n_trained)[0] if n else []
    drawn = [
        figures.predicted_against_trained(few),
        figures.score_histogram(few),
        figures.score_against_cost(few),
        figures.score_against_cost(few, "latency_ms"),
        figures.usage_figure(usage(few)),
        figures.search_progress({"": few}),
    ]
    for figure in drawn:
        figure.draw_without_rendering()
    if not n or not n_trained:
        assert "nothing to show: nothing trained" in texts(drawn[0])
    for figure in drawn[3:]:
        assert "nothing to show: " in texts(figure)


def test_only_failed_candidates() -> None:
    failed = [dataclasses.replace(c, score=None, score_se=None) for c in make_candidates(2, 0)[0]]
    assert "no candidate has a score" in texts(figures.score_histogram(failed))
    assert "no candidate has a score" in texts(figures.score_against_cost(failed))
