"""Figures of a search: pure functions from records to matplotlib figures, in one style. No global pyplot state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hypernas.engine.records import Candidate, TrainingReport
from hypernas.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hypernas.evaluation.report import FineTuning

__all__ = ["finetuning_curves", "learning_curves", "score_against_cost", "score_against_trained", "score_histogram"]

# Okabe and Ito (2008), without the yellow, which is too light for lines on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P")
ALL, TRAINED, TEST, FRONT = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[2]
SCORE = "score before training: mean log-rank of the signals"
COSTS = {
    "params": "parameters",
    "flops": "FLOPs (multiply-accumulates of one image)",
    "latency_ms": "latency (ms a pass)",
}


def score_histogram(candidates: Sequence[Candidate]) -> Figure:
    """How the scores are spread, with the trained candidates marked below."""
    figure, (axes,) = _figure(1)
    scored = _scored(candidates)
    n_failed = len(candidates) - len(scored)
    _title(axes, f"Scores of {len(scored):,} candidates" + (f" ({n_failed:,} failed)" if n_failed else ""))
    if not scored:
        return _nothing(figure, axes, "no candidate has a score")
    bins = min(60, max(5, round(2 * len(scored) ** 0.5)))
    axes.hist([_score(c) for c in scored], bins=bins, color=ALL, edgecolor="white", linewidth=0.6)
    trained = [_score(c) for c in scored if c.training is not None]
    if trained:
        axes.plot(
            trained, [0.0] * len(trained), "^", color=TRAINED, markersize=9, clip_on=False, zorder=5, label="trained"
        )
        axes.legend(frameon=False, fontsize=10)
    axes.set_xlabel(SCORE, fontsize=11)
    axes.set_ylabel("candidates", fontsize=11)
    axes.yaxis.get_major_locator().set_params(integer=True)
    return figure


def score_against_cost(
    candidates: Sequence[Candidate], cost: Literal["params", "flops", "latency_ms"] = "params"
) -> Figure:
    """Score over parameters, FLOPs or latency at full scale; trained candidates bear their rank.

    Of several objectives, the first Pareto front is marked; over one cost alone it need not be at the edge.
    """
    if cost not in COSTS:
        raise UsageError(f"A cost is one of {', '.join(COSTS)}", value=cost)
    figure, (axes,) = _figure(1)
    _title(axes, f"Score against {COSTS[cost].split(' (')[0]}")
    scored = [c for c in _scored(candidates) if getattr(c, cost) is not None]
    if not scored:
        return _nothing(figure, axes, "no candidate has a score")
    axes.set_xscale("log")
    axes.scatter(
        [getattr(c, cost) for c in scored], [_score(c) for c in scored], s=18, color=ALL, alpha=0.55, linewidths=0
    )
    front = [c for c in scored if c.front == 1]
    if front:
        at = [getattr(c, cost) for c in front], [_score(c) for c in front]
        axes.scatter(*at, s=26, marker="s", color=FRONT, linewidths=0, label="Pareto front")
    trained = [c for c in scored if c.training is not None]
    if trained:
        points = [(float(getattr(c, cost)), _score(c)) for c in trained]
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=60, facecolors="none", edgecolors=TRAINED, linewidths=1.8, label="trained (with its rank)")
        axes.margins(0.08)
        _annotate(figure, axes, points, [str(c.rank) for c in trained])
    if front or trained:
        axes.legend(frameon=False, fontsize=10, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    _short_ticks(axes)
    axes.set_xlabel(f"{COSTS[cost]}, full scale", fontsize=11)
    axes.set_ylabel(SCORE, fontsize=11)
    return figure


def score_against_trained(candidates: Sequence[Candidate]) -> Figure:
    """Val and test accuracy after full training over the score before it; Kendall's tau where there are three."""
    figure, panels = _figure(2)
    trained = [c for c in _scored(candidates) if c.training is not None]
    for axes, split, colour in zip(panels, ("val", "test"), (ALL, TEST), strict=True):
        reports = [c.training for c in trained if c.training is not None]
        accuracy = [r.val_accuracy if split == "val" else r.test_accuracy for r in reports]
        scores = [_score(c) for c in trained]
        _title(axes, f"Score against {split} accuracy{_tau(scores, accuracy)}")
        if not trained:
            _nothing(figure, axes, "nothing trained")
            continue
        axes.scatter(scores, accuracy, s=46, color=colour)
        errors = [c.score_se or 0.0 for c in trained]
        if any(errors):
            axes.errorbar(scores, accuracy, xerr=errors, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
        axes.margins(0.12)
        _annotate(figure, axes, list(zip(scores, accuracy, strict=True)), [str(c.rank) for c in trained])
        axes.set_xlabel(SCORE, fontsize=11)
        axes.set_ylabel(f"{split} accuracy after training (%)", fontsize=11)
    return figure


def _tau(scores: Sequence[float], accuracy: Sequence[float]) -> str:
    """Kendall's tau-b and n for a title; empty below three points, where it says nothing."""
    if len(scores) < 3:
        return f" (n = {len(scores)})" if scores else ""
    from scipy.stats import kendalltau

    tau = float(kendalltau(scores, accuracy).statistic)
    return f" (n = {len(scores)}, all equal)" if math.isnan(tau) else f"\nKendall τ = {tau:.2f}, n = {len(scores)}"


def learning_curves(reports: Mapping[str, TrainingReport]) -> Figure:
    """Loss and accuracy over the epochs: val solid, train dashed, a mark at the epoch whose weights were kept."""
    figure, panels = _figure(2)
    for axes, name, unit in zip(panels, ("loss", "accuracy"), ("nats", "%"), strict=True):
        _title(axes, f"{name.capitalize()} during full training")
        if not any(report.history for report in reports.values()):
            _nothing(figure, axes, "nothing trained")
            continue
        for i, (label, report) in enumerate(reports.items()):
            colour, mark = COLOURS[i % len(COLOURS)], MARKS[(i // len(COLOURS)) % len(MARKS)]
            epochs = [epoch.epoch for epoch in report.history]
            val = [getattr(epoch, f"val_{name}") for epoch in report.history]
            train = [getattr(epoch, f"train_{name}") for epoch in report.history]
            single = mark if len(epochs) == 1 else None
            axes.plot(epochs, train, color=colour, linewidth=1.2, linestyle="--", alpha=0.7, marker=single)
            axes.plot(epochs, val, color=colour, linewidth=1.8, label=label)
            kept = [(epoch, value) for epoch, value in zip(epochs, val, strict=True) if epoch == report.best_epoch]
            axes.plot(*zip(*kept, strict=True), mark, color=colour, markersize=8) if kept else None
        axes.set_xlabel("epoch", fontsize=11)
        axes.set_ylabel(f"{name} ({unit})", fontsize=11)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if name == "accuracy":
            _curves_legend(axes)
    return figure


def _curves_legend(axes: Axes) -> None:
    from matplotlib.lines import Line2D

    handles, _ = axes.get_legend_handles_labels()
    keys = [
        Line2D([], [], color="#555555", linewidth=1.8, label="val"),
        Line2D([], [], color="#555555", linewidth=1.2, linestyle="--", label="train"),
        Line2D([], [], color="#555555", marker="o", linestyle="none", markersize=8, label="weights kept"),
    ]
    axes.legend(handles=[*handles, *keys], frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def finetuning_curves(tuning: FineTuning) -> Figure:
    """Val accuracy and losses from emitted and from random weights; accuracy from before the first epoch on."""
    figure, (accuracy, loss) = _figure(2)
    figure.suptitle(
        "Fine-tuning from emitted and from random weights" + _saving(tuning), fontsize=12.5, x=0.01, ha="left"
    )
    _title(accuracy, "Val accuracy")
    _title(loss, "Loss")
    for (name, report), colour in zip(tuning.reports.items(), (ALL, TRAINED), strict=True):
        epochs = [epoch.epoch for epoch in report.history]
        values = [tuning.before[name], *(epoch.val_accuracy for epoch in report.history)]
        label = f"from {name} weights"
        accuracy.plot([0, *epochs], values, color=colour, linewidth=1.8, marker=".", label=label)
        accuracy.plot(report.best_epoch, report.val_accuracy, "o", color=colour, markersize=8)
        single = "o" if len(epochs) == 1 else None
        loss.plot(epochs, [e.val_loss for e in report.history], color=colour, linewidth=1.8, marker=single, label=label)
        train = [e.train_loss for e in report.history]
        loss.plot(epochs, train, color=colour, linewidth=1.2, linestyle="--", alpha=0.7, marker=single)
    for axes, unit in ((accuracy, "val accuracy (%)"), (loss, "loss (nats)")):
        axes.set_xlabel("epoch (0: before training)" if axes is accuracy else "epoch", fontsize=11)
        axes.set_ylabel(unit, fontsize=11)
        axes.xaxis.get_major_locator().set_params(integer=True)
    _curves_legend(loss)
    return figure


def _saving(tuning: FineTuning) -> str:
    parts = [f"{share} %: {n}" for share, n in tuning.saved.items() if n is not None]
    return f"\nepochs saved to reach a share of the random start's best: {', '.join(parts)}" if parts else ""


# --- style ---------------------------------------------------------------------------------------------------------


def _figure(n: int) -> tuple[Figure, Sequence[Any]]:
    """``n`` panels side by side, in the style of all figures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 if n == 1 else 12.5, 4.8), layout="constrained")
    panels = figure.subplots(1, n, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=10)
    return figure, list(panels)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=12.5, loc="left")


def _nothing(figure: Figure, axes: Axes, text: str) -> Figure:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=13, color="#555555")
    return figure


def _scored(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [c for c in candidates if c.score is not None and math.isfinite(c.score)]


def _score(candidate: Candidate) -> float:
    assert candidate.score is not None
    return candidate.score


def _short_ticks(axes: Axes) -> None:
    """Ticks of a log axis as 20 k, 1.5 M and so on, which also reads well within one decade."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.7 else tuple(map(float, range(1, 10)))
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _annotate(figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str]) -> None:
    """Put each label beside its point, at the first of several places where it hides no other label."""
    figure.draw_without_rendering()  # settles the layout, so that pixels are final
    taken: list[tuple[float, float, float]] = []
    for (x, y), label in zip(points, labels, strict=True):
        px, py = axes.transData.transform((x, y))
        width = 7.0 * len(label) * figure.dpi / 72
        height = 12.0 * figure.dpi / 72
        for radius in (12, 22, 34, 46):
            places = [(radius * math.cos(k * math.pi / 4), radius * math.sin(k * math.pi / 4)) for k in (1, 3, 2, 0, 4)]
            free = [
                (dx, dy)
                for dx, dy in places
                if all(
                    abs(px + dx * figure.dpi / 72 - tx) > (width + tw) / 2
                    or abs(py + dy * figure.dpi / 72 - ty) > height
                    for tx, ty, tw in taken
                )
            ]
            if free:
                break
        dx, dy = free[0] if free else places[0]
        taken.append((px + dx * figure.dpi / 72, py + dy * figure.dpi / 72, width))
        far = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.7} if math.hypot(dx, dy) > 13 else None
        axes.annotate(
            label,
            (x, y),
            (dx, dy),
            textcoords="offset points",
            fontsize=10,
            ha="center",
            va="center",
            arrowprops=far,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )
