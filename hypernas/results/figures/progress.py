"""The figure of how searches went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hypernas.engine.records import Candidate
from hypernas.results.figures.style import (
    COLOURS,
    DARK,
    SIZE_SMALL,
    labels,
    new_figure,
    nothing,
    plain,
    score_label,
    title,
)
from hypernas.results.progress import N_MEAN, Progress, progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["search_progress"]

DRAWN = 2_000  # points of a line; more make no difference to be seen


def search_progress(searches: Mapping[str, Sequence[Candidate]], *, calibrated: bool = False) -> Figure:
    """The best score so far and the mean of the best ten, over the candidates proposed; a colour for each search.

    Args:
        searches: label, for example the sampler -> its candidates, in any order.
    """
    figure, (axes,) = new_figure()
    found = {label: progress(candidates) for label, candidates in searches.items()}
    known = {label: one for label, one in found.items() if len(one.proposed)}
    title(axes, "Best scores so far" + (f": {plain(next(iter(known)))}" if len(known) == 1 else ""))
    labels(axes, "candidates proposed", score_label(calibrated))
    if not known:
        nothing(axes, next((one.reason for one in found.values()), "no search"))
        return figure
    for i, (label, one) in enumerate(known.items()):
        _lines(axes, one, COLOURS[i % len(COLOURS)], plain(label))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _window(axes, list(known.values()))
    _legend(axes, len(known))
    missing = [label for label in found if label not in known]
    if missing:
        axes.set_title(f"not shown: {plain(', '.join(missing))}", fontsize=SIZE_SMALL - 0.5, color=DARK, loc="right")
    return figure


def _lines(axes: Axes, one: Progress, colour: str, label: str) -> None:
    import numpy as np

    best, mean = one.best, one.mean_best
    steps = np.flatnonzero(np.diff(best, prepend=-np.inf))
    end = len(best) - 1
    x, y = one.proposed[[*steps, end]], best[[*steps, end]]
    axes.step(x, y, where="post", color=colour, linewidth=1.8, label=label, gid="best")
    some = np.unique(np.geomspace(1, len(mean), DRAWN).astype(int)) - 1 if len(mean) > DRAWN else np.arange(len(mean))
    some = some[np.isfinite(mean[some])]
    axes.plot(one.proposed[some], mean[some], color=colour, linewidth=1.3, linestyle="--", gid="mean")


def _window(axes: Axes, known: Sequence[Progress]) -> None:
    """From the first mean of ten on: the very first scores, which may be far below, would squeeze the rest."""
    import numpy as np

    tops = [float(one.best[-1]) for one in known]
    starts = [one.mean_best[np.isfinite(one.mean_best)] for one in known]
    lows = [float(start[0]) for start in starts if len(start)]
    if lows and max(tops) > min(lows):
        room = 0.06 * (max(tops) - min(lows))
        axes.set_ylim(min(lows) - room, max(tops) + room)


def _legend(axes: Axes, n: int) -> None:
    from matplotlib.lines import Line2D

    handles, _ = axes.get_legend_handles_labels()
    colour = COLOURS[0] if n == 1 else DARK
    keys = [
        Line2D([], [], color=colour, linewidth=1.8, label="best"),
        Line2D([], [], color=colour, linewidth=1.3, linestyle="--", label=f"mean of the best {N_MEAN}"),
    ]
    axes.legend(handles=[*(handles if n > 1 else []), *keys], frameon=False, fontsize=SIZE_SMALL, loc="lower right")
