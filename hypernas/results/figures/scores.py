"""Figures of the scores: how they are spread, what they cost, how they foretold accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hypernas.engine.records import Candidate
from hypernas.results.figures.style import (
    ALL,
    DROPPED,
    FRONT,
    GREY,
    OWN_FRONT,
    TEST,
    TRAINED,
    annotate,
    labels,
    legend_above,
    new_figure,
    note,
    nothing,
    score_label,
    short_ticks,
    tau_text,
    title,
)
from hypernas.results.pareto import Cost, costly, pareto_rows
from hypernas.results.prediction import Prediction, prediction
from hypernas.results.scored import finalists, scored, scores_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["predicted_against_trained", "score_against_cost", "score_histogram"]

COST_LABELS = {
    "params": "parameters",
    "flops": "FLOPs (multiply-accumulates of one image)",
    "latency_ms": "latency (ms a pass)",
}
DROPPED_NOTE = "What the race dropped was scored on fewer images: its scores are of another scale."
MANY = 2_000  # points; more are drawn smaller and fainter
RASTER = 20_000  # points; more are one bitmap in SVG and PDF files
MAX_RANKS = 60  # labels of ranks; more would hide the points


def score_histogram(candidates: Sequence[Candidate], *, calibrated: bool = False) -> Figure:
    """How the scores are spread, with the trained candidates marked below; those without are counted in the title."""
    figure, (axes,) = new_figure()
    some = scored(candidates)
    title(axes, f"Scores of {len(some):,} candidates{_left_out(candidates, len(some))}")
    labels(axes, score_label(calibrated), "candidates")
    if not some:
        nothing(axes, "no candidate has a score")
        return figure
    bins = min(60, max(5, round(2 * len(some) ** 0.5)))
    last = {id(c) for c in finalists(candidates)}
    final, dropped = scores_of([c for c in some if id(c) in last]), scores_of([c for c in some if id(c) not in last])
    look: dict[str, Any] = {"bins": bins, "edgecolor": "white", "linewidth": 0.6, "stacked": True}
    if len(dropped):
        names = [f"scored in full ({len(final):,})", f"dropped by the race ({len(dropped):,})"]
        axes.hist([final, dropped], color=[ALL, DROPPED], label=names, **look)
        note(figure, DROPPED_NOTE)
    else:
        axes.hist(final, color=ALL, **look)
    trained = scores_of([c for c in some if c.training is not None])
    if len(trained):
        mark: dict[str, Any] = {"markersize": 9, "clip_on": False, "zorder": 5}
        axes.plot(trained, [0.0] * len(trained), "^", color=TRAINED, label=f"trained ({len(trained):,})", **mark)
    if len(trained) or len(dropped):
        legend_above(axes)
    axes.yaxis.get_major_locator().set_params(integer=True)
    return figure


def _left_out(candidates: Sequence[Candidate], n_scored: int) -> str:
    failed = sum(c.score is None for c in candidates)
    refused = len(candidates) - n_scored - failed
    counts = ((failed, "failed"), (refused, "refused"))
    said = ", ".join(f"{n:,} {what}" for n, what in counts if n)
    return f" ({said})" if said else ""


def score_against_cost(candidates: Sequence[Candidate], cost: Cost = "params", *, calibrated: bool = False) -> Figure:
    """Score over parameters, FLOPs or latency at full scale, with the Pareto front of the two; trained bear their rank.

    Of a search with several objectives, its own first front is marked; over one cost alone it need not be at the edge.

    Raises:
        UsageError: for another cost.
    """
    some = costly(candidates, cost)
    dropped = _dropped(candidates, cost)
    figure, (axes,) = new_figure()
    name = COST_LABELS[cost].split(" (")[0]
    title(axes, f"Score against {name}: {len(some) + len(dropped):,} candidates")
    labels(axes, f"{COST_LABELS[cost]}, full scale", score_label(calibrated))
    if not some:
        nothing(axes, f"no {name} was measured" if scored(candidates) else "no candidate has a score")
        return figure
    x, y = _costs(some, cost), scores_of(some)
    many = len(some) + len(dropped)
    if dropped:
        _dots(axes, _costs(dropped, cost), scores_of(dropped), many, color=GREY, label="dropped by the race", gid="all")
        note(figure, DROPPED_NOTE)
    _dots(axes, x, y, many, color=ALL, label="scored in full" if dropped else "", gid="all")
    own = [i for i, c in enumerate(some) if c.front == 1]
    if own:
        mark: dict[str, Any] = {
            "s": 34,
            "marker": "s",
            "facecolors": "none",
            "edgecolors": OWN_FRONT,
            "linewidths": 1.4,
        }
        axes.scatter(x[own], y[own], label="search's own first front", gid="own front", **mark)
    front = pareto_rows(y, x)
    line: dict[str, Any] = {"color": FRONT, "linewidth": 1.6, "marker": "D", "markersize": 4.5, "zorder": 3}
    axes.step(x[front], y[front], where="post", label="Pareto front", gid="front", **line)
    _trained(figure, axes, some, x, y)
    if np.concatenate([x, _costs(dropped, cost)]).min() > 0:
        axes.set_xscale("log")
        short_ticks(axes, counts=cost != "latency_ms")
    return figure


def _dropped(candidates: Sequence[Candidate], cost: Cost) -> list[Candidate]:
    """Those that a race dropped, and whose cost is known."""
    last = finalists(candidates)
    everyone = scored(candidates)
    if len(last) == len(everyone):
        return []
    known = {id(c) for c in last}
    return [c for c in everyone if id(c) not in known and getattr(c, cost) is not None]


def _costs(some: Sequence[Candidate], cost: Cost) -> NDArray[np.float64]:
    return np.fromiter((getattr(c, cost) for c in some), np.float64, len(some))


def _dots(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], many: int, **look: Any) -> None:
    size, alpha = (18, 0.55) if many <= MANY else (5, 0.3) if many <= RASTER else (2.5, 0.15)
    axes.scatter(x, y, s=size, alpha=alpha, linewidths=0, rasterized=many > RASTER, **look)


def _trained(
    figure: Figure, axes: Axes, some: Sequence[Candidate], x: NDArray[np.float64], y: NDArray[np.float64]
) -> None:
    """Rings around the trained, with their ranks, and the legend of all."""
    rows = [i for i, c in enumerate(some) if c.training is not None]
    mark: dict[str, Any] = {"s": 60, "facecolors": "none", "edgecolors": TRAINED, "linewidths": 1.8, "zorder": 4}
    if rows:
        axes.scatter(x[rows], y[rows], label="trained (with its rank)", gid="trained", **mark)
        axes.margins(0.08)
    legend_above(axes)
    if 0 < len(rows) <= MAX_RANKS:
        annotate(figure, axes, [(float(x[i]), float(y[i])) for i in rows], [str(some[i].rank) for i in rows])


def predicted_against_trained(candidates: Sequence[Candidate], *, calibrated: bool = False) -> Figure:
    """Val and test accuracy after training over the score before it, with tau and its interval; nothing is fitted."""
    found = prediction(candidates)
    figure, panels = new_figure(2)
    errors = {c.rank: c.score_se or 0.0 for c in candidates}
    shown = (("val", found.accuracies, found.tau, ALL), ("test", found.test_accuracies, found.tau_test, TEST))
    for axes, (split, accuracies, tau, colour) in zip(panels, shown, strict=True):
        labels(axes, score_label(calibrated), f"{split} accuracy after training (%)")
        if not found.n:
            title(axes, f"Score against {split} accuracy")
            nothing(axes, "nothing trained")
            continue
        title(axes, f"Score against {split} accuracy\n{tau_text(tau, found.n)}")
        axes.scatter(found.scores, accuracies, s=46, color=colour, zorder=3)
        _annotated(figure, axes, found, accuracies, [errors[rank] for rank in found.ranks], colour)
    note(figure, found.caveat)
    return figure


def _annotated(
    figure: Figure, axes: Axes, found: Prediction, accuracies: Sequence[float], errors: Sequence[float], colour: str
) -> None:
    if any(errors):
        look: dict[str, Any] = {"ecolor": colour, "elinewidth": 1, "alpha": 0.5}
        axes.errorbar(found.scores, accuracies, xerr=list(errors), fmt="none", **look)
    axes.margins(0.12)
    if found.n <= MAX_RANKS:
        annotate(figure, axes, list(zip(found.scores, accuracies, strict=True)), [str(rank) for rank in found.ranks])
