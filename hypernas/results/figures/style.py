"""One style for all figures: colours, panels, titles, ticks, labels. No global pyplot state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hypernas.ranking.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ALL",
    "COLOURS",
    "DPI",
    "DROPPED",
    "FRONT",
    "GREY",
    "MARKS",
    "OWN_FRONT",
    "TEST",
    "TRAINED",
    "annotate",
    "labels",
    "legend_above",
    "new_figure",
    "note",
    "nothing",
    "plain",
    "score_label",
    "short_ticks",
    "tau_text",
    "title",
]

# Okabe and Ito (2008), without the yellow, which is too light for lines on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P")
ALL, TRAINED, TEST, FRONT, OWN_FRONT = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[2], COLOURS[3]
GREY = "#999999"
DARK = "#555555"
DROPPED = "#BBBBBB"
DPI = 120  # of PNG files: legible in MLflow's pages

ORDER = (1, 3, 2, 0, 4, 7, 5, 6)  # eighths of a turn at which a text is tried

SIZE_TITLE, SIZE_LABEL, SIZE_SMALL = 12.5, 11, 10


def new_figure(n: int = 1, *, height: float = 4.8, ratios: Sequence[float] | None = None) -> tuple[Figure, list[Any]]:
    """``n`` panels side by side, in the style of all figures. Inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 if n == 1 else 12.5, height), layout="constrained")
    panels = figure.subplots(1, n, squeeze=False, gridspec_kw={"width_ratios": ratios} if ratios else None)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=SIZE_SMALL)
    return figure, list(panels)


def plain(text: str) -> str:
    """Text in which matplotlib reads no formula."""
    return text.replace("$", r"\$")


def title(axes: Axes, text: str, subtitle: str = "") -> None:
    """A title on the left; what stands below it is smaller and grey."""
    axes.set_title(text, fontsize=SIZE_TITLE, loc="left", pad=6 + 13 * len(subtitle.splitlines()))
    if subtitle:
        axes.annotate(
            subtitle,
            (0.0, 1.0),
            (0, 5),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=SIZE_SMALL - 0.5,
            color=DARK,
            va="bottom",
            gid="subtitle",
        )


def labels(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=SIZE_LABEL)
    axes.set_ylabel(y, fontsize=SIZE_LABEL)


def note(figure: Figure, text: str) -> None:
    """Small text below the panels: what a reader has to bear in mind."""
    if text:
        figure.supxlabel(text, fontsize=SIZE_SMALL - 0.5, color=DARK, x=0.01, ha="left")


def nothing(axes: Axes, reason: str) -> None:
    """An empty panel that says why it is empty."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    where: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, _folded(f"nothing to show: {reason}"), fontsize=12, color=DARK, **where)


def _folded(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 44)


def legend_above(axes: Axes, columns: int = 3) -> None:
    """A legend right above the panel, where it hides no point; the title goes higher."""
    from matplotlib.collections import PathCollection

    legend = axes.legend(
        frameon=False,
        fontsize=SIZE_SMALL,
        loc="lower left",
        bbox_to_anchor=(-0.01, 0.985),
        ncols=columns,
        borderaxespad=0.0,
        handletextpad=0.4,
        columnspacing=1.4,
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection) and max(handle.get_sizes()) < 20:  # dots of many, hardly to be seen
            handle.set(sizes=[20], alpha=0.8)
    n_rows = -(-len(axes.get_legend_handles_labels()[0]) // columns)
    axes.set_title(axes.get_title(loc="left"), fontsize=SIZE_TITLE, loc="left", pad=10 + 15 * n_rows)


def score_label(calibrated: bool) -> str:
    """What a score is, for an axis."""
    if calibrated:
        return "score before training: predicted val accuracy (%)"
    return "score before training: mean log-rank of the signals"


def tau_text(tau: Estimate, n: int) -> str:
    """``Kendall τ = 0.41 [0.10, 0.68], n = 20``, or why there is no tau."""
    if tau.value is None:
        return f"n = {n}: no τ of fewer than three" if n < 3 else f"n = {n}: no τ, as all are equal"
    interval = " (no interval of fewer than ten)" if n < 10 else ""
    if tau.low is not None and tau.high is not None:
        interval = f" [{tau.low:.2f}, {tau.high:.2f}]"
    return f"Kendall τ = {tau.value:.2f}{interval}, n = {n}"


def short_ticks(axes: Axes, *, counts: bool = True) -> None:
    """Ticks of a log axis that also read well within one decade: counts as 20 k or 1.5 M, others as they are."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.7 else tuple(map(float, range(1, 10)))
    if decades < 0.15:  # no round number of the above may be among so few
        subs = tuple(1 + i / 10 for i in range(90))
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(EngFormatter() if counts else FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def annotate(figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str]) -> None:
    """Put each text beside its point, at the first of several places where it hides neither a text nor a point."""
    figure.draw_without_rendering()  # settles the layout, so that pixels are final
    pixel = figure.dpi / 72
    height = 12.0 * pixel
    taken: list[tuple[float, float, float]] = []
    dots = [tuple(axes.transData.transform(point)) for point in points]
    for (x, y), text in zip(points, texts, strict=True):
        px, py = axes.transData.transform((x, y))
        width = 7.0 * len(text) * pixel
        for radius in (12, 22, 34, 46):
            places = [(radius * math.cos(k * math.pi / 4), radius * math.sin(k * math.pi / 4)) for k in ORDER]
            free = [
                (dx, dy)
                for dx, dy in places
                if all(
                    abs(px + dx * pixel - tx) > (width + tw) / 2 or abs(py + dy * pixel - ty) > height
                    for tx, ty, tw in taken
                )
                and all(
                    abs(px + dx * pixel - x_dot) > width / 2 + 4 * pixel or abs(py + dy * pixel - y_dot) > 9 * pixel
                    for x_dot, y_dot in dots
                    if (x_dot, y_dot) != (px, py)
                )
            ]
            if free:
                break
        dx, dy = free[0] if free else places[0]
        taken.append((px + dx * pixel, py + dy * pixel, width))
        far = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7} if math.hypot(dx, dy) > 13 else None
        axes.annotate(
            text,
            (x, y),
            (dx, dy),
            textcoords="offset points",
            fontsize=SIZE_SMALL,
            ha="center",
            va="center",
            arrowprops=far,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            gid="rank",
        )
