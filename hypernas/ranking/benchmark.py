"""A score held against the truth: the statistics with their intervals, other scores beside it, and what that says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hypernas.errors import UsageError, close_matches
from hypernas.ranking.joining import Joined, Progress, ScoreColumn, join
from hypernas.ranking.statistics import (
    LEVEL,
    MIN_RESAMPLES,
    Estimate,
    bootstrap,
    estimate,
    part_sizes,
    ranking_statistics,
    statistic_names,
)
from hypernas.ranking.tables import ARCHITECTURE, find_epochs, find_truth_column, read_header, read_scores, read_truth

if TYPE_CHECKING:
    from hypernas.spaces.space import SearchSpace

__all__ = ["BenchmarkOptions", "Ranked", "Report", "benchmark", "signed"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What ``hypernas bench`` is asked.

    Attributes:
        against: another file of scores, or another column of the same one.
        short: column of the truth -> epochs of training after which it was read.
        worth_epochs: find such columns by their names where ``short`` gives none.
        space: both files are joined on the digest of what their strings stand for in it, not on the strings.
    """

    scores: Path
    truth: Path
    column: str = "score"
    truth_column: str | None = None
    against: str | None = None
    worth_epochs: bool = False
    short: Mapping[str, int] | None = None
    space: SearchSpace | None = None
    top: int = 10
    n_resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UsageError("--top is at least 1", value=self.top)
        if self.n_resamples and self.n_resamples < MIN_RESAMPLES:
            raise UsageError(f"--bootstrap is at least {MIN_RESAMPLES}, or 0 for no intervals", value=self.n_resamples)
        if not 0 <= self.seed < 2**32:
            raise UsageError("--seed is between 0 and 4294967295", value=self.seed)


@dataclass(frozen=True)
class Ranked:
    """How well one column ranks. ``differences``: the first column's statistics minus these, on the same resamples."""

    label: str
    statistics: dict[str, Estimate]
    differences: dict[str, Estimate] | None = None
    epochs: int | None = None

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"column": self.label}
        if self.epochs is not None:
            value["epochs"] = self.epochs
        value["statistics"] = {name: e.to_json() for name, e in self.statistics.items()}
        if self.differences is not None:
            value["differences"] = {name: e.to_json() for name, e in self.differences.items()}
        return value


@dataclass(frozen=True)
class Report:
    """Everything that ``hypernas bench`` says."""

    options: BenchmarkOptions
    truth_column: str
    joined: Joined
    score: Ranked
    against: Ranked | None
    short: list[Ranked]
    verdicts: list[str]

    @property
    def n(self) -> int:
        return len(self.joined.truth)

    @property
    def unit(self) -> str:
        """Of the truth: % where it is an accuracy above 1, else none that is known."""
        return "%" if "accuracy" in self.truth_column and self.joined.truth.max() > 1 else ""

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: what is not defined is null."""
        o, twins = self.options, self.joined.twins
        return {
            "scores": str(o.scores),
            "truth": str(o.truth),
            "truth_column": self.truth_column,
            "n": self.n,
            "top": o.top,
            "bootstrap": o.n_resamples,
            "level": LEVEL,
            "seed": o.seed,
            "rows": part_sizes(self.joined.truth, o.top),
            **self.score.to_json(),
            "against": self.against.to_json() if self.against else None,
            "short": [ranked.to_json() for ranked in self.short],
            "twins": {"n": twins.n, "n_differ": twins.n_differ, "largest": twins.largest} if twins else None,
            "verdicts": self.verdicts,
            "notes": self.joined.notes,
        }


def benchmark(options: BenchmarkOptions, progress: Progress = lambda what, done, total: None) -> Report:
    """Read, join, compute.

    Args:
        progress: told (what, done, total) of the steps that may take long.

    Raises:
        DataError, UsageError: see ``tables``; where fewer than three architectures are in all files, or a column is
            constant on them, so that no tau is defined.
        SpaceError: where a string is no architecture of ``options.space``.
    """
    truth_column = find_truth_column(options.truth, options.truth_column)
    epochs = _short_columns(options, truth_column)
    truth = read_truth(options.truth, [truth_column, *epochs], "--short")
    joined = join(_score_columns(options), truth, truth_column, options.space, progress)
    vectors = [*joined.scores.values(), *(truth.columns[name][joined.rows] for name in epochs)]
    labels = [*joined.scores, *epochs]
    for label, vector in ((truth_column, joined.truth), *zip(labels, vectors, strict=True)):
        _check_varies(label, vector)

    def statistics(rows: NDArray[np.intp]) -> Floats:
        return np.stack([ranking_statistics(vector[rows], joined.truth[rows], options.top) for vector in vectors])

    n = len(joined.truth)
    values = statistics(np.arange(n))
    draws = bootstrap(
        statistics, n, options.n_resamples, options.seed, lambda done, total: progress("Bootstrap", done, total)
    ).reshape(-1, *values.shape)
    sizes = part_sizes(joined.truth, options.top)

    def estimates(value: Floats, drawn: Floats) -> dict[str, Estimate]:
        names = statistic_names(options.top)
        return {name: estimate(value[i], drawn[:, i], sizes[name]) for i, name in enumerate(names)}

    ranked = [
        Ranked(
            label,
            estimates(values[i], draws[:, i]),
            estimates(values[0] - values[i], draws[:, 0] - draws[:, i]) if i else None,
            epochs.get(label) if i >= len(joined.scores) else None,
        )
        for i, label in enumerate(labels)
    ]
    score, others, short = ranked[0], ranked[1 : len(joined.scores)], ranked[len(joined.scores) :]
    said = [_compare(score, other) for other in others]
    if short:
        said.append(_worth_epochs(score, short))
    return Report(options, truth_column, joined, score, others[0] if others else None, short, said)


# --- which columns -------------------------------------------------------------------------------------------------


def _short_columns(options: BenchmarkOptions, truth_column: str) -> dict[str, int]:
    """Column -> epochs, the fewest first; empty where nobody asked."""
    if options.short:
        if truth_column in options.short:
            raise UsageError("--short names a column that is not the truth itself", value=truth_column)
        return dict(sorted(options.short.items(), key=lambda item: item[1]))
    if not options.worth_epochs:
        return {}
    header = read_header(options.truth)
    found = {name: epochs for name in header if name != truth_column and (epochs := find_epochs(name))}
    if not found:
        raise UsageError(
            f"--worth-epochs needs accuracies after a few epochs: {options.truth} has a column whose name ends in "
            "_<k>_epochs, such as test_accuracy_12_epochs",
            value=", ".join(header),
            remedy="Add one, or name it with --short COLUMN:EPOCHS.",
        )
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _score_columns(options: BenchmarkOptions) -> list[ScoreColumn]:
    """The score, and the other one where there is one."""
    column, against = options.column, options.against
    if against is None:
        return [ScoreColumn(column, column, read_scores(options.scores, [column]))]
    others = [name for name in read_header(options.scores) if name not in {ARCHITECTURE, column}]
    if against in others:
        table = read_scores(options.scores, [column, against])
        return [ScoreColumn(name, name, table) for name in (column, against)]
    path = Path(against)
    if not path.is_file() or path.resolve() == options.scores.resolve():
        raise UsageError(
            f"--against is another file of scores, or another column of {options.scores}",
            value=against,
            remedy=close_matches(against, others) if others else "It has none.",
        )
    paths = (options.scores, path)
    names = [p.name for p in paths] if options.scores.name != path.name else [str(p) for p in paths]
    return [
        ScoreColumn(f"{column} of {name}", column, read_scores(p, [column]))
        for name, p in zip(names, paths, strict=True)
    ]


def _check_varies(label: str, values: Floats) -> None:
    if np.ptp(values) == 0:
        raise UsageError(
            f"A column that ranks has at least two different values; {label!r} is constant on the {len(values):,} "
            "architectures that were joined, so its tau is undefined",
            value=float(values[0]),
            remedy="Name another with --column, --truth-column, --against or --short.",
        )


# --- what it says --------------------------------------------------------------------------------------------------


def signed(estimate: Estimate) -> str:
    """``+0.041 [0.032, 0.050]``, for a difference of two taus."""
    interval = "n/a" if estimate.low is None else f"{estimate.low:.3f}, {estimate.high:.3f}"
    return "n/a" if estimate.value is None else f"{estimate.value:+.3f} [{interval}]"


def _compare(score: Ranked, other: Ranked) -> str:
    assert other.differences is not None
    tau = other.differences["tau"]
    if tau.low is None:
        return f"{score.label} and {other.label} are not told apart, for want of an interval: tau {signed(tau)}."
    if not tau.sign:
        return f"{score.label} and {other.label} are not told apart: tau {signed(tau)}."
    return f"{score.label} ranks {'better' if tau.sign > 0 else 'worse'} than {other.label}: tau {signed(tau)}."


def _worth_epochs(score: Ranked, short: Sequence[Ranked]) -> str:
    """After how many epochs trained accuracies rank as well as the score, by tau over all rows; ``short`` ascends.

    The score is worth more than k epochs where the paired interval of its tau minus theirs is above zero, and less
    where it is below. Between two columns, the number is interpolated in log epochs; beyond them nothing is guessed.
    """
    taus = {r.epochs: r.differences["tau"] for r in short if r.epochs is not None and r.differences is not None}
    table = "; ".join(f"tau {signed(tau)} against {epochs} epochs" for epochs, tau in taus.items())
    if all(tau.low is None for tau in taus.values()):
        return f"What {score.label} is worth in epochs cannot be told, for want of an interval: {table}."
    better = [epochs for epochs, tau in taus.items() if tau.sign > 0]
    worse = [epochs for epochs, tau in taus.items() if tau.sign < 0]
    if better and worse and max(better) > min(worse):
        return f"{score.label} is worth no one number of epochs, as accuracy ranks worse after more of them: {table}."
    if len(better) == len(taus):
        worth = f"more than {max(better)} epochs of training"
    elif len(worse) == len(taus):
        worth = f"less than {min(worse)} epochs of training"
    else:
        bounds = f"between {max(better)} and {min(worse)}" if better and worse else ""
        bounds = bounds or (f"more than {max(better)}" if better else f"less than {min(worse)}" if worse else "")
        about = float(f"{_interpolated({epochs: tau.value or 0.0 for epochs, tau in taus.items()}):.2g}")
        worth = f"about {about:g} epochs of training" + (f" ({bounds})" if bounds else "")
    return f"{score.label} is worth {worth}: {table}."


def _interpolated(differences: Mapping[int, float]) -> float:
    """The epochs at which a difference of taus passes zero; those of the smallest difference where it does not."""
    points = list(differences.items())
    for (few, above), (many, below) in pairwise(points):
        if above >= 0 > below:
            return math.exp(math.log(few) + above / (above - below) * math.log(many / few))
    return float(min(points, key=lambda point: abs(point[1]))[0])
