"""The figure of a comparison: how searches went, what they trained, how their winners learned, how scores spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypernas.engine.records import Candidate, SearchResult, TrainingReport
from hypernas.errors import StoreError, UsageError
from hypernas.results.figures.style import (
    COLOURS,
    DARK,
    DPI,
    SIZE_SMALL,
    annotate,
    labels,
    note,
    nothing,
    plain,
    title,
)
from hypernas.results.progress import progress
from hypernas.results.scored import scored, scores_of
from hypernas.results.winner import trained, winner

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SUFFIXES", "check_figure_path", "networks_figure", "save_figure", "searches_figure"]

SUFFIXES = (".png", ".svg")
MOST_MARKED = 5  # trained networks of a search that bear their rank
BINS = 40
UNLIKE = 4  # times as many candidates in one search as in another: the axis is then logarithmic
WORST = 0.01  # share of the scores that the histogram puts into its first bin
Reports = Mapping[str, TrainingReport | None]


def check_figure_path(path: Path) -> None:
    """Raises UsageError for a file that is neither PNG nor SVG, or whose folder is not there."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError("A figure is a .png or an .svg file", value=str(path), remedy="Name such a file with --out.")
    if not path.parent.is_dir():
        raise UsageError("The folder of --out is there", value=str(path.parent), remedy="Make it first.")


def save_figure(figure: Figure, path: Path) -> None:
    """Raises StoreError where the file cannot be written."""
    from matplotlib import rc_context

    try:
        with rc_context({"svg.hashsalt": "hypernas"}):  # equal figures are equal files
            metadata: dict[str, Any] = {"Date": None} if path.suffix.lower() == ".svg" else {}
            figure.savefig(path, dpi=DPI, metadata=metadata)
    except OSError as error:
        raise StoreError(
            f"The figure can be written ({error.strerror or error})", value=str(path), remedy="Name another --out."
        ) from None


def searches_figure(results: Sequence[SearchResult], *, warning: str = "") -> Figure:
    """Four panels: best scores over the candidates proposed, accuracies of the trained, learning curves of the winners
    and the scores' distributions; a colour is a search, with its sampler where it is known.

    Args:
        warning: what does not compare; it stands below the panels.
    """
    named = {_name(result): result for result in results}
    figure, ((going, reached), (learning, spread)) = _panels(2, 2)
    _draw_progress(going, named)
    _draw_trained(figure, reached, named)
    best = {name: winner(result.candidates) for name, result in named.items()}
    _draw_curves(learning, {name: row.training if row else None for name, row in best.items()}, "the winners")
    _draw_scores(spread, named)
    note(figure, plain(warning))
    return figure


def networks_figure(rows: Mapping[str, Candidate], *, warning: str = "") -> Figure:
    """Two panels: learning curves and accuracies of several networks; a colour is a network."""
    from matplotlib.ticker import EngFormatter

    figure, ((learning, reached),) = _panels(1, 2)
    _draw_curves(learning, {name: row.training for name, row in rows.items()}, "the networks")
    title(reached, "Accuracy and size")
    labels(reached, "parameters", "accuracy after full training (%)")
    points = []
    for (name, row), colour in zip(rows.items(), _colours(len(rows)), strict=True):
        if row.training is not None:
            points.append((row.params, row.training.val_accuracy))
            reached.plot(row.params, row.training.val_accuracy, "o", color=colour, markersize=9, label=plain(name))
            reached.plot(row.params, row.training.test_accuracy, "o", color=colour, markersize=9, mfc="none")
    if not points:
        nothing(reached, "none of them was trained")
    else:
        reached.margins(0.15)
        reached.xaxis.set_major_formatter(EngFormatter(sep=""))
        _legend(reached, {"val": {"marker": "o"}, "test": {"marker": "o", "mfc": "none"}})
    note(figure, plain(warning))
    return figure


def _name(result: SearchResult) -> str:
    sampler = result.options.get("sampler")
    return f"{result.search_id} ({sampler})" if sampler else result.search_id


def _folded(name: str) -> str:
    """In lines so short that many stand side by side."""
    return "\n".join(plain(name).replace(" ", "\n", 1).rsplit("-", 1))


def _colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _panels(rows: int, columns: int) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 4.6 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=SIZE_SMALL)
    return figure, panels


def _legend(axes: Axes, keys: Mapping[str, Mapping[str, Any]]) -> None:
    """The searches or networks by colour, then what the marks and lines stand for."""
    from matplotlib.lines import Line2D

    handles, _ = axes.get_legend_handles_labels()
    lines = [
        Line2D([], [], label=label, **{"color": DARK, "linestyle": "none", **dict(look)})
        for label, look in keys.items()
    ]
    axes.legend(handles=[*handles, *lines], frameon=False, fontsize=SIZE_SMALL - 1)


def _draw_progress(axes: Axes, named: Mapping[str, SearchResult]) -> None:
    title(axes, "Best score so far")
    labels(axes, "candidates proposed", "score before training")
    found = {name: progress(result.candidates) for name, result in named.items()}
    if not any(len(one.proposed) for one in found.values()):
        nothing(axes, next(one.reason for one in found.values()))
        return
    lows, highs = [], []
    for (name, one), colour in zip(found.items(), _colours(len(found)), strict=True):
        if len(one.proposed):
            axes.step(one.proposed, one.best, where="post", color=colour, linewidth=1.8, label=plain(name), gid="best")
            steady = [value for value in one.mean_best if math.isfinite(value)]
            lows.append(steady[0] if steady else float(one.best[0]))
            highs.append(float(one.best[-1]))
    lengths = [int(one.proposed[-1]) for one in found.values() if len(one.proposed)]
    if max(lengths) > UNLIKE * min(lengths):
        axes.set_xscale("log")
    room = 0.06 * (max(highs) - min(lows))
    if room > 0:  # the very first scores, which may be far below, would squeeze the rest
        axes.set_ylim(min(lows) - room, max(highs) + room)
    axes.legend(frameon=False, fontsize=SIZE_SMALL - 1, loc="lower right")


def _draw_trained(figure: Figure, axes: Axes, named: Mapping[str, SearchResult]) -> None:
    """A dot for each trained network, a column for each search; the best bear their rank."""
    title(axes, "Trained networks, with the ranks of the best")
    labels(axes, "", "accuracy after full training (%)")
    points: list[tuple[float, float]] = []
    texts: list[str] = []
    for i, ((_, result), colour) in enumerate(zip(named.items(), _colours(len(named)), strict=True)):
        for place, (row, report) in enumerate(trained(result.candidates)):
            axes.plot(i, report.val_accuracy, "o", color=colour, markersize=8, gid="val", alpha=0.85)
            axes.plot(i + 0.15, report.test_accuracy, "o", color=colour, markersize=6, mfc="none", gid="test")
            if place < MOST_MARKED:
                points.append((i, report.val_accuracy))
                texts.append(str(row.rank))
    if not points:
        nothing(axes, "nothing was trained")
        return
    axes.set_xticks(range(len(named)), list(map(_folded, named)), fontsize=SIZE_SMALL - 1)
    axes.set_xlim(-0.6, len(named) - 0.4)
    axes.margins(y=0.12)
    _legend(axes, {"val": {"marker": "o"}, "test": {"marker": "o", "mfc": "none"}})
    annotate(figure, axes, points, texts)


def _draw_curves(axes: Axes, reports: Reports, whose: str) -> None:
    """Val accuracy over the epochs: a start from random weights is dashed, one from emitted weights solid."""
    from matplotlib.ticker import MaxNLocator

    title(axes, f"Learning curves of {whose}")
    labels(axes, "epoch", "val accuracy (%)")
    drawn = {name: report for name, report in reports.items() if report is not None and report.history}
    if not drawn:
        nothing(axes, "nothing was trained")
        return
    for (name, report), colour in zip(reports.items(), _colours(len(reports)), strict=True):
        if report is not None and report.history:
            line = "--" if report.init == "random" else "-"
            epochs = [epoch.epoch for epoch in report.history]
            values = [epoch.val_accuracy for epoch in report.history]
            single = "o" if len(epochs) == 1 else None
            axes.plot(
                epochs, values, line, color=colour, linewidth=1.8, marker=single, label=plain(name), gid=report.init
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    inits = sorted({report.init for report in drawn.values()})
    looks = {"emitted": {"linestyle": "-"}, "random": {"linestyle": "--"}}
    _legend(axes, {f"from {init} weights": looks.get(init, {"linestyle": "-"}) for init in inits})


def _draw_scores(axes: Axes, named: Mapping[str, SearchResult]) -> None:
    """Shares of the candidates, on bins that all searches have in common."""
    import numpy as np

    title(axes, f"Scores of the candidates (the worst {100 * WORST:.0f} % in the first bin)")
    labels(axes, "score before training", "share of the candidates (%)")
    scores = {name: scores_of(scored(result.candidates)) for name, result in named.items()}
    some = [values for values in scores.values() if len(values)]
    if not some:
        nothing(axes, "no candidate has a score")
        return
    every = np.concatenate(some)
    # a few very bad ones would leave one bin for all the others
    low, high = float(np.quantile(every, WORST)), float(every.max())
    bins = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    for (name, values), colour in zip(scores.items(), _colours(len(scores)), strict=True):
        if len(values):
            inside = np.clip(values, bins[0], None)
            weights = np.full(len(values), 100 / len(values))
            look: dict[str, Any] = {"histtype": "step", "linewidth": 1.6, "color": colour, "label": plain(name)}
            axes.hist(inside, bins=bins.tolist(), weights=weights, gid="scores", **look)
    axes.legend(frameon=False, fontsize=SIZE_SMALL - 1, loc="upper left")
