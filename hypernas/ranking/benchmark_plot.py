"""The figure of ``hypernas bench``: score against truth. Pure but for writing the file; no global pyplot state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hypernas.errors import StoreError, UsageError
from hypernas.ranking.benchmark import Report
from hypernas.ranking.statistics import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "check_plot_path", "score_against_truth", "write_plot"]

FORMATS = (".png", ".svg")
# as in hypernas/results/figures/style.py: Okabe and Ito (2008)
ALL, TOP = "#0072B2", "#D55E00"
DENSE = 1500  # rows; above, dots hide each other and cells that count them are clearer
HEAVY_TAIL = 50  # times the interquartile range: wider scores would be squeezed into one edge, and ranks are shown


def check_plot_path(path: Path) -> None:
    """Raises ``UsageError`` for a suffix that is not drawn, and ``StoreError`` for a folder that is not there."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot ends in {' or '.join(FORMATS)}", value=str(path))
    if not path.parent.is_dir() or path.is_dir():
        raise StoreError(
            "--plot is a file in a folder that exists", value=str(path), remedy="Make the folder, or name another."
        )


def write_plot(report: Report, path: Path) -> None:
    check_plot_path(path)
    score_against_truth(report).savefig(path, dpi=150)


def score_against_truth(report: Report) -> Figure:
    """True accuracy over the score, with those of the ``top`` highest scores marked; tau and its interval above."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10)
    label, truth = report.score.label, report.joined.truth
    score = report.joined.scores[label]
    x, how = _shown(score)
    _points(figure, axes, x, truth)
    marked = score >= np.sort(score)[-min(report.options.top, len(score))]
    ties = "" if marked.sum() <= report.options.top else f" ({marked.sum():,} with ties)"
    legend = f"{report.options.top} highest scores{ties}"
    axes.scatter(x[marked], truth[marked], s=40, facecolors="none", edgecolors=TOP, linewidths=1.5, label=legend)
    axes.legend(frameon=False, fontsize=10, loc="lower right")  # good scores have nothing there
    axes.set_title(f"{_plain(label)}\n{_tau(report)}", fontsize=12.5, loc="left")
    axes.set_xlabel(f"{_plain(label)}{how}", fontsize=11)
    axes.set_ylabel(f"{_plain(report.truth_column)}{report.unit and f' ({report.unit})'}", fontsize=11)
    return figure


def _tau(report: Report) -> str:
    tau = report.score.statistics["tau"]
    interval = "" if tau.low is None else f" [{tau.low:.3f}, {tau.high:.3f}]"
    return f"Kendall τ = {tau.value:.3f}{interval}, n = {report.n:,}"


def _shown(score: Floats) -> tuple[Floats, str]:
    """What stands on the axis, and how its label says so: the scores, or their ranks where outliers would hide them."""
    low, high = np.quantile(score, [0.25, 0.75])
    if np.ptp(score) <= HEAVY_TAIL * (high - low):
        return score, ": score (higher is better)"
    from scipy.stats import rankdata

    return np.asarray(rankdata(score)), ": rank of the score (highest is best)"


def _points(figure: Figure, axes: Axes, x: Floats, y: Floats) -> None:
    if len(x) <= DENSE:
        axes.scatter(x, y, s=18, color=ALL, alpha=0.55, linewidths=0)
        return
    cells = axes.hexbin(x, y, gridsize=70, bins="log", mincnt=1, cmap="Blues", linewidths=0.1)
    cells.set_clim(0.3, None)  # a cell with one architecture is still seen on white
    figure.colorbar(cells, ax=axes, label="architectures in a cell")


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # else matplotlib reads formulas
