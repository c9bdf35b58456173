"""Figures of training: the networks of a search, the two starts of one network, the meta-training of a GHN."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypernas.engine.records import TrainingReport
from hypernas.results.figures.style import (
    ALL,
    COLOURS,
    DARK,
    MARKS,
    SIZE_TITLE,
    TRAINED,
    labels,
    new_figure,
    nothing,
    plain,
    title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hypernas.evaluation.report import FineTuning

__all__ = ["finetuning_curves", "ghn_meta_training", "learning_curves"]

FEW = 6  # networks; of more, the train curves are fainter still


def learning_curves(reports: Mapping[str, TrainingReport | Sequence[TrainingReport]]) -> Figure:
    """Loss and accuracy over the epochs: val solid, train dashed, a mark at the epoch whose weights were kept.

    A colour is a network. A start from random weights has open circles along its line, one from emitted weights none.

    Args:
        reports: label of a network -> its training, or several of one network, such as both starts.
    """
    figure, panels = new_figure(2)
    starts = {label: [one] if isinstance(one, TrainingReport) else list(one) for label, one in reports.items()}
    inits = {report.init for several in starts.values() for report in several}
    for axes, name, unit in zip(panels, ("loss", "accuracy"), ("nats", "%"), strict=True):
        title(axes, f"{name.capitalize()} during full training")
        labels(axes, "epoch", f"{name} ({unit})")
        if not any(report.history for several in starts.values() for report in several):
            nothing(axes, "nothing trained")
            continue
        for i, (label, several) in enumerate(starts.items()):
            colour, mark = COLOURS[i % len(COLOURS)], MARKS[(i // len(COLOURS)) % len(MARKS)]
            for report in several:
                text = plain(label) if len(inits) == 1 else f"{plain(label)}, {report.init} start"
                _learning_curve(axes, report, name, text, colour, mark, faint=len(starts) > FEW)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if name == "accuracy":
            heading = f"from {next(iter(inits))} weights:" if len(inits) == 1 else ""
            curves_legend(axes, heading=heading, is_random="random" in inits)
    return figure


def _learning_curve(
    axes: Axes, report: TrainingReport, name: str, label: str, colour: str, mark: str, *, faint: bool
) -> None:
    epochs = [epoch.epoch for epoch in report.history]
    val = [getattr(epoch, f"val_{name}") for epoch in report.history]
    train = [getattr(epoch, f"train_{name}") for epoch in report.history]
    is_random = report.init == "random"
    single = mark if len(epochs) == 1 else None
    look: dict[str, Any] = {"color": colour, "linewidth": 1.1, "alpha": 0.35 if faint else 0.65}
    axes.plot(epochs, train, linestyle=":" if is_random else "--", marker=single, gid="train", **look)
    open_marks: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "markersize": 5.5}
    open_marks["markevery"] = max(1, len(epochs) // 12)
    axes.plot(epochs, val, color=colour, linewidth=1.8, label=label, gid="val", **(open_marks if is_random else {}))
    kept = [(epoch, value) for epoch, value in zip(epochs, val, strict=True) if epoch == report.best_epoch]
    if kept:
        axes.plot(*zip(*kept, strict=True), mark, color=colour, markersize=8, gid="kept", zorder=4)


def _with_mark(line: Any, mark: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=line.get_color(), linewidth=1.8, marker=mark, markersize=6, label=line.get_label())


def curves_legend(axes: Axes, *, heading: str = "", is_random: bool = False) -> None:
    """Networks by colour, then what lines and marks stand for; right of the panel."""
    from matplotlib.lines import Line2D

    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > len(COLOURS):  # networks share a colour: the marks of the kept weights tell them apart
        marks = [line.get_marker() for line in axes.lines if line.get_gid() == "kept"]
        handles = [_with_mark(line, mark) for line, mark in zip(handles, marks, strict=False)]
    keys = [
        Line2D([], [], color=DARK, linewidth=1.8, label="val"),
        Line2D([], [], color=DARK, linewidth=1.2, linestyle="--", label="train"),
        Line2D([], [], color=DARK, marker="o", linestyle="none", markersize=8, label="weights kept"),
    ]
    if is_random:
        open_marks: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "markersize": 5.5}
        keys[1] = Line2D([], [], color=DARK, linewidth=1.2, linestyle="--", label="train (dotted: random start)")
        keys.insert(1, Line2D([], [], color=DARK, linewidth=1.8, label="val, random start", **open_marks))
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    axes.legend(
        handles=[*handles, *keys],
        frameon=False,
        fontsize=9,
        title=heading or None,
        title_fontsize=9,
        alignment="left",
        **place,
    )


def finetuning_curves(tuning: FineTuning) -> Figure:
    """Val accuracy and losses from emitted and from random weights; accuracy from before the first epoch on."""
    figure, (accuracy, loss) = new_figure(2)
    heading = "Fine-tuning from emitted and from random weights" + _saving(tuning)
    figure.suptitle(heading, fontsize=SIZE_TITLE, x=0.01, ha="left")
    title(accuracy, "Val accuracy")
    title(loss, "Loss")
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
    labels(accuracy, "epoch (0: before training)", "val accuracy (%)")
    labels(loss, "epoch", "loss (nats)")
    for axes in (accuracy, loss):
        axes.xaxis.get_major_locator().set_params(integer=True)
    curves_legend(loss)
    return figure


def _saving(tuning: FineTuning) -> str:
    parts = [f"{share} %: {n}" for share, n in tuning.saved.items() if n is not None]
    return f"\nepochs saved to reach a share of the random start's best: {', '.join(parts)}" if parts else ""


def ghn_meta_training(
    curve: Sequence[Sequence[float | None]], *, name: str = "", architecture_steps: int | None = None
) -> Figure:
    """Losses and val accuracy of the networks with emitted weights, over the steps of meta-training.

    Args:
        curve: rows [step, train loss, val loss, val accuracy], losses in nats, accuracy in per cent; None or NaN where
            nothing was measured.
        name: of the GHN.
        architecture_steps: networks times steps, in all.
    """
    figure, (loss, accuracy) = new_figure(2)
    of = f" of {plain(name)}" if name else ""
    steps = f": {architecture_steps:,} architecture-steps" if architecture_steps is not None else ""
    figure.suptitle(f"Meta-training{of}{steps}", fontsize=SIZE_TITLE + 0.5, x=0.01, ha="left")
    parts = (
        (loss, "Loss with emitted weights", "loss (nats)", ((1, "train", TRAINED, "--"), (2, "val", ALL, "-"))),
        (accuracy, "Val accuracy with emitted weights", "val accuracy (%)", ((3, "val", ALL, "-"),)),
    )
    for axes, heading, unit, lines in parts:
        title(axes, heading)
        labels(axes, "step of meta-training (a batch of networks each)", unit)
        drawn = [_measured(curve, column) for column, *_ in lines]
        if not any(drawn):
            nothing(axes, "nothing was measured during meta-training")
            continue
        for points, (_, label, colour, style) in zip(drawn, lines, strict=True):
            mark = {"marker": "." if len(points) > 1 else "o", "markersize": 5}
            x, y = [step for step, _ in points], [value for _, value in points]
            axes.plot(x, y, color=colour, linestyle=style, linewidth=1.6, label=label, **mark)
        axes.xaxis.set_major_locator(_few_ticks())
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=10)
    return figure


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6, integer=True)


def _measured(curve: Sequence[Sequence[float | None]], column: int) -> list[tuple[float, float]]:
    """(step, value) of the rows that have one."""
    points = []
    for row in curve:
        step, value = row[0], row[column] if column < len(row) else None
        if step is not None and value is not None and math.isfinite(value):
            points.append((float(step), float(value)))
    return points
