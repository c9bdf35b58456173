"""Learning curves, meta-training and confusion matrices show what was recorded; a search has the figures that apply."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from tracking_records import make_candidates, make_result

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.results import figures


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    return make_candidates(30, 9)[0]


@pytest.fixture(scope="module")
def reports(candidates: list[Candidate]) -> dict[str, TrainingReport]:
    return {c.digest[:8]: c.training for c in candidates if c.training}


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(Text)]


def test_learning_curves_show_every_epoch(reports: dict[str, TrainingReport]) -> None:
    figure = figures.learning_curves(reports)
    for axes, name in zip(figure.axes, ("loss", "accuracy"), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in axes.lines if line.get_gid() == "val"}
        kept = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_gid() == "kept"]
        assert list(lines) == list(reports)
        for (label, report), point in zip(reports.items(), kept, strict=True):
            np.testing.assert_allclose(lines[label], [getattr(e, f"val_{name}") for e in report.history])
            best = next(e for e in report.history if e.epoch == report.best_epoch)
            assert point == [report.best_epoch, getattr(best, f"val_{name}")]


def test_networks_of_one_colour_differ_in_the_legend(reports: dict[str, TrainingReport]) -> None:
    handles = figures.learning_curves(reports).axes[1].get_legend().legend_handles[: len(reports)]
    assert len({(str(h.get_color()), str(h.get_marker())) for h in handles}) == len(reports)  # type: ignore[union-attr]


def test_both_starts_of_one_network_are_told_apart(reports: dict[str, TrainingReport]) -> None:
    label, emitted = next(iter(reports.items()))
    random = dataclasses.replace(emitted, init="random")
    axes = figures.learning_curves({label: (emitted, random), "other": emitted}).axes[1]
    first, second, other = (line for line in axes.lines if line.get_gid() == "val")
    assert first.get_color() == second.get_color() != other.get_color()
    assert {first.get_linestyle(), second.get_linestyle(), other.get_linestyle()} == {"-"}
    assert first.get_marker() != second.get_marker()
    assert [t.get_text() for t in axes.get_legend().get_texts()[:3]] == [
        f"{label}, emitted start",
        f"{label}, random start",
        "other, emitted start",
    ]


@pytest.mark.parametrize("n_epochs", [0, 1])
def test_short_trainings_can_be_drawn(n_epochs: int, reports: dict[str, TrainingReport]) -> None:
    short = {label: dataclasses.replace(r, history=r.history[:n_epochs]) for label, r in reports.items()}
    figure = figures.learning_curves(short)
    figure.draw_without_rendering()
    assert ("nothing to show: nothing trained" in texts(figure)) == (n_epochs == 0)


def test_meta_training_shows_what_was_measured() -> None:
    curve = [[0, None, 2.5, 10.0], [100, 2.0, float("nan"), None], [200, 1.8, 1.9, 30.0]]
    figure = figures.ghn_meta_training(curve, name="some-ghn", architecture_steps=12_345)
    loss, accuracy = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert drawn == {"train": [[100, 2.0], [200, 1.8]], "val": [[0, 2.5], [200, 1.9]]}
    assert accuracy.lines[0].get_xydata().tolist() == [[0, 10.0], [200, 30.0]]
    assert figure.get_suptitle() == "Meta-training of some-ghn: 12,345 architecture-steps"
    figure.draw_without_rendering()


def test_meta_training_without_a_measurement() -> None:
    assert any("nothing to show" in t for t in texts(figures.ghn_meta_training([[1, None, None, None]])))


def test_confusion_matrix_shows_shares_counts_and_recall() -> None:
    rows = [[8, 1, 1], [0, 5, 5], [0, 0, 0]]
    figure = figures.confusion_matrix(rows, ["cat", "dog", "hen"], label="rank 1")
    axes, recall, _ = figure.axes
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.1, 0.1], [0, 0.5, 0.5], [0, 0, 0]])
    counts = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert counts == {(i, j): str(n) for i, row in enumerate(rows) for j, n in enumerate(row) if n}
    assert "rank 1\ntest accuracy 65.00 % of 20 images" in axes.get_title(loc="left")
    np.testing.assert_allclose([bar.get_width() for bar in recall.patches], [80, 50, np.nan])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog", "hen"]
    figure.draw_without_rendering()


@pytest.mark.parametrize("n", [1, 20, 21, 100])
def test_confusion_matrices_of_any_size(n: int) -> None:
    figure = figures.confusion_matrix(np.eye(n, dtype=int).tolist())
    assert len(figure.axes[0].texts) == (n if n <= 20 else 0)
    assert len(figure.axes[0].get_yticklabels()) <= 50
    figure.draw_without_rendering()


def test_confusion_matrix_of_no_images() -> None:
    assert "nothing to show: no image was classified" in texts(figures.confusion_matrix([[0, 0], [0, 0]]))


# --- all of a search -----------------------------------------------------------------------------------------------


def search(n: int, n_trained: int, **more: object) -> SearchResult:
    numbered = [dataclasses.replace(c, number=i) for i, c in enumerate(make_candidates(n, n_trained)[0])]
    return dataclasses.replace(make_result(numbered, ""), **more)


def test_a_whole_search_has_all_figures() -> None:
    facts = {"architecture_steps": 50, "figures": {"curve": [[0, None, 2.5, 10.0], [5, 2.0, 2.1, 20.0]]}}
    result = search(60, 4, ghn_facts=facts, class_names=("a", "b"), options={"sampler": "evolution"})
    trained = [c for c in result.candidates if c.training]
    best = max(trained, key=lambda c: c.training.val_accuracy if c.training else 0.0)
    for c in trained:
        c.latency_ms = 0.5
        assert c.training
        c.training = dataclasses.replace(c.training, confusion=((3, c.rank), (0, 5)))
    drawn = dict(figures.search_figures(result))
    assert set(drawn) == set(figures.CAPTIONS)
    assert "Best scores so far: evolution sampler" in texts(drawn["progress"])
    shown = {t.get_text() for t in drawn["confusion_matrix"].axes[0].texts}
    assert shown == {"3", str(best.rank), "5"}


def test_a_small_search_has_the_figures_that_apply() -> None:
    unknown = [dataclasses.replace(c, number=-1) for c in make_candidates(5, 0)[0]]
    stems = [stem for stem, _ in figures.search_figures(make_result(unknown, ""))]
    assert stems == ["score_histogram", "score_against_params", "score_against_flops"]


def test_captions_are_sentences() -> None:
    for caption in figures.CAPTIONS.values():
        assert caption.endswith(".")
        assert 40 < len(caption) < 420
