"""The figure of which choices the best candidates made more often than the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hypernas.results.figures.style import ALL, GREY, SIZE_SMALL, labels, new_figure, note, nothing, plain, title
from hypernas.results.usage import FALSE_DISCOVERIES, ChoiceUse, OperationUse, Usage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["usage_figure"]

N_CHOICES = 15  # bars with names that can be read
N_OPERATIONS = 20
NAME = 34  # characters of a name


def usage_figure(found: Usage) -> Figure:
    """Operations on the left, the choices with the least adjusted p on the right: bars to the difference, intervals."""
    choices = _without_mirrors(found.choices)[:N_CHOICES]
    operations = found.operations[:N_OPERATIONS]
    longest = max(len(choices), len(operations))
    figure, panels = new_figure(2, height=max(4.8, 1.7 + 0.27 * longest), ratios=(1, 1.15))
    left, right = panels
    best = f"the best {found.fraction:.0%} ({found.n_best:,})"
    who = f"{best} against the rest ({found.n_rest:,})"
    count = [
        f"{sum(e.is_significant for e in uses):,} of {len(uses):,} have an adjusted p ≤ {FALSE_DISCOVERIES:g} (blue)"
        for uses in (found.operations, found.choices)
    ]
    title(left, "Operations: uses a candidate", f"{who}\nMann-Whitney U: {count[0]}" if found.operations else "")
    title(right, "Choices: share of candidates", f"{who}\nFisher's exact test: {count[1]}" if found.choices else "")
    reason = found.reason or "no decision names an operation, or all candidates use the same"
    rows = sorted(operations, key=_value)
    _bars(left, rows, [e.operation for e in rows], 1.0, reason)
    labels(left, "difference in mean uses a candidate, best − rest", "")
    picked = sorted(choices, key=_value)
    names = [f"{e.decision} = {e.choice}" for e in picked]
    _bars(right, picked, names, 100.0, found.reason or "no choices differ between candidates")
    labels(right, "difference in share, best − rest (percentage points)", "")
    more = len(_without_mirrors(found.choices)) - len(choices)
    shown = f" Not shown: {more:,} choices with a higher p." if more else ""
    if not found.reason:
        note(figure, f"95 % intervals; p adjusted by Benjamini-Hochberg over all entries of a panel.{shown}")
    return figure


def _value(use: ChoiceUse | OperationUse) -> float:
    return use.difference.value or 0.0


def _without_mirrors(choices: Sequence[ChoiceUse]) -> list[ChoiceUse]:
    """Of a decision between two choices the one that the best make more often: the other is its mirror image."""
    n_of: dict[str, int] = {}
    total: dict[str, float] = {}
    for use in choices:
        n_of[use.decision] = n_of.get(use.decision, 0) + 1
        total[use.decision] = total.get(use.decision, 0.0) + _value(use)
    mirrored = {name for name, n in n_of.items() if n == 2 and abs(total[name]) < 1e-9}
    return [use for use in choices if use.decision not in mirrored or _value(use) >= 0]


def _bars(axes: Axes, uses: Sequence[ChoiceUse | OperationUse], names: Sequence[str], unit: float, reason: str) -> None:
    if not uses:
        nothing(axes, reason)
        return
    places = range(len(uses))
    values = [unit * _value(use) for use in uses]
    colours = [ALL if use.is_significant else "#BBBBBB" for use in uses]
    axes.barh(places, values, color=colours, height=0.66, zorder=2)
    low = [value - unit * (use.difference.low or 0.0) for value, use in zip(values, uses, strict=True)]
    high = [unit * (use.difference.high or 0.0) - value for value, use in zip(values, uses, strict=True)]
    axes.errorbar(values, places, xerr=[low, high], fmt="none", ecolor="#333333", elinewidth=1, capsize=2, zorder=3)
    axes.axvline(0.0, color="#333333", linewidth=0.9, zorder=1)
    axes.set_yticks(places, [plain(name if len(name) <= NAME else f"{name[: NAME - 1]}…") for name in names])
    axes.tick_params(axis="y", length=0, labelsize=SIZE_SMALL - 1)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.set_ylim(-0.6, len(uses) - 0.4)
