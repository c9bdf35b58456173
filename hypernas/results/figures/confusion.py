"""The confusion matrix of a trained network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hypernas.results.figures.style import labels, nothing, plain, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["confusion_matrix"]

NUMBERED = 20  # classes; of more, counts would not be legible
NAMED = 50  # classes; of more, every so many have their name at the axes
DARK_SHARE = 0.5  # of a row; on cells above it, text is white


def confusion_matrix(
    rows: Sequence[Sequence[int]], class_names: Sequence[str] = (), *, label: str = "", split: str = "test"
) -> Figure:
    """Shares of each true class by what was predicted, with counts of up to 20 classes; the recall of each beside it.

    Args:
        rows: counts, rows the true classes, columns the predicted ones.
        class_names: in that order; numbers where none are given.
    """
    import numpy as np
    from matplotlib.figure import Figure

    counts = np.array(rows, dtype=np.int64).reshape(len(rows), -1)
    n = len(counts)
    side = 1.9 + min(7.6, max(3.2, 0.52 * n))
    figure = Figure(figsize=(side + 2.1, side), layout="constrained")
    axes, beside, scale = figure.subplots(1, 3, gridspec_kw={"width_ratios": (5, 1, 0.12)})
    total = int(counts.sum())
    heading = "Confusion matrix" + (f" of {plain(label)}" if label else "")
    if not total:
        title(axes, heading)
        nothing(axes, "no image was classified")
        beside.set_axis_off()
        scale.set_axis_off()
        return figure
    accuracy = 100 * float(np.trace(counts)) / total
    title(axes, f"{heading}\n{split} accuracy {accuracy:.2f} % of {total:,} images")
    sums = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(sums, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    names = [plain(str(name)) for name in class_names] if len(class_names) == n else [str(i) for i in range(n)]
    _name_classes(axes, names)
    if n <= NUMBERED:
        _write_counts(axes, counts, shares)
    labels(axes, "predicted class", "true class")
    bar = figure.colorbar(image, cax=scale)
    bar.set_label("share of the true class", fontsize=10)
    bar.outline.set_visible(False)
    _recall(beside, shares, sums[:, 0], n)
    return figure


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    n = len(names)
    every = -(-n // NAMED)
    shown = range(0, n, every)
    size = 9 if n <= NUMBERED else 7 if n <= NAMED else 6.5
    texts = [names[i] if len(names[i]) <= 14 else f"{names[i][:13]}…" for i in shown]
    axes.set_xticks(shown, texts, fontsize=size, rotation=90 if n > 6 and max(map(len, texts)) > 2 else 0)
    axes.set_yticks(shown, texts, fontsize=size)
    axes.tick_params(length=0 if every == 1 else 2)
    axes.spines[:].set_visible(False)


def _write_counts(axes: Axes, counts: NDArray[Any], shares: NDArray[Any]) -> None:
    size = 10 if len(counts) <= 12 else 7.5
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count:
                colour = "white" if shares[i, j] > DARK_SHARE else "#222222"
                axes.text(j, i, f"{count}", ha="center", va="center", fontsize=size, color=colour, gid="count")


def _recall(axes: Axes, shares: NDArray[Any], sums: NDArray[Any], n: int) -> None:
    """Bars of each class's recall, in the rows of the matrix; none for a class without images."""
    recall = [100 * shares[i, i] if sums[i] else float("nan") for i in range(n)]
    axes.barh(range(n), recall, color="#2171B5", height=0.7 if n <= NAMED else 1.0)
    axes.set(xlim=(0, 100), ylim=(n - 0.5, -0.5), yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(visible=True, axis="x", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xticks((0, 50, 100))
    axes.set_xlabel("recall (%)", fontsize=11)
    if n <= NUMBERED:
        for i, value in enumerate(recall):
            if math.isfinite(value):
                axes.text(2, i, f"{value:.0f}", va="center", fontsize=9, color="white" if value > 25 else "#222222")
