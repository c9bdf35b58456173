"""What a search maximises and what it must keep: objectives, costs, limits, Pareto fronts and hypervolume."""

from __future__ import annotations

import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hypernas.errors import UsageError, close_matches

__all__ = ["OBJECTIVES", "Costs", "Limits", "Objectives", "amount_text", "fronts", "hypervolume", "parse_amount"]

OBJECTIVES = ("score", "params", "flops", "latency", "memory")
FIELDS = {"params": "params", "flops": "flops", "latency": "latency_ms", "memory": "memory_mb"}  # objective -> of Costs
UNITS = {"params": "", "flops": "", "latency_ms": "ms", "memory_mb": "MB"}
SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
LEAST_COST = 1e-9  # a network without parameters has no logarithm of their number


@dataclass(frozen=True, slots=True)
class Costs:
    """Of the network at full scale.

    Attributes:
        flops: multiply-accumulates for one image.
        memory_mb: of inference, in 10**6 bytes; None where nobody asked.
        latency_ms: of one pass, measured; None where nobody asked.
    """

    params: int
    flops: int
    memory_mb: float | None = None
    latency_ms: float | None = None

    def of(self, field: str) -> float:
        """A cost by the name of its field; it has to have been asked for."""
        value: float | None = getattr(self, field)
        assert value is not None, f"{field} was not asked of the Coster"
        return value


@dataclass(frozen=True)
class Objectives:
    """What is maximised; the first ranks within a Pareto front."""

    names: tuple[str, ...] = ("score",)

    @classmethod
    def parse(cls, text: str) -> Objectives:
        """From ``score,params``; the score comes first, wherever it was named.

        Raises:
            UsageError: for an objective that does not exist, one named twice, or none of them the score.
        """
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in OBJECTIVES:
                raise UsageError(
                    "--objectives are some of those known, with commas between",
                    value=name,
                    remedy=close_matches(name, OBJECTIVES),
                )
        if len(set(names)) < len(names):
            raise UsageError("--objectives names each once", value=text, remedy="Leave the repeated one out.")
        if "score" not in names:
            raise UsageError("--objectives has the score among them", value=text, remedy=f"Write score,{text}.")
        return cls(("score", *(name for name in names if name != "score")))

    def values(self, score: float, costs: Costs) -> tuple[float, ...]:
        """One number an objective, all to be maximised: the score as it is, a cost as minus its log10."""
        return tuple(
            score if name == "score" else -math.log10(max(costs.of(FIELDS[name]), LEAST_COST)) for name in self.names
        )


@dataclass(frozen=True)
class Limits:
    """The most that a network at full scale may cost; None where there is no limit."""

    params: float | None = None
    flops: float | None = None
    latency_ms: float | None = None
    memory_mb: float | None = None

    def check(self) -> None:
        """Raises UsageError for a limit that is not positive and finite."""
        for field, limit in self._given():
            if not 0 < limit < math.inf:
                option = f"--max-{field.replace('_', '-')}"
                raise UsageError(f"{option} is positive and finite", value=limit, remedy="Leave it out for no limit.")

    def exceeded(self, costs: Costs) -> list[tuple[str, float, float]]:
        """(field of ``Costs``, value, limit) of each limit that is not kept."""
        values = ((field, costs.of(field), limit) for field, limit in self._given())
        return [(field, value, limit) for field, value, limit in values if value > limit]

    def violation(self, costs: Costs) -> float:
        """0 where every limit is kept, else the sum of log(value / limit) over those that are not."""
        return sum(math.log(value / limit) for _, value, limit in self.exceeded(costs))

    def broken(self, costs: Costs) -> str:
        """``latency 21.3 ms > 20 ms`` for each limit that is not kept, on one line; empty where all are."""
        return ", ".join(_comparison(*one) for one in self.exceeded(costs))

    def needs_latency(self, objectives: Objectives) -> bool:
        """Whether anything asks for a measurement."""
        return self.latency_ms is not None or "latency" in objectives.names

    def needs_memory(self, objectives: Objectives) -> bool:
        return self.memory_mb is not None or "memory" in objectives.names

    def _given(self) -> Iterator[tuple[str, float]]:
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is not None:
                yield field.name, limit


def _comparison(field: str, value: float, limit: float) -> str:
    """As few digits as tell the two apart."""
    name = field.partition("_")[0]
    for digits in range(3, 18):
        texts = amount_text(value, UNITS[field], digits), amount_text(limit, UNITS[field], digits)
        if texts[0] != texts[1]:
            break
    return f"{name} {texts[0]} > {texts[1]}"


def amount_text(value: float, unit: str = "", digits: int = 3) -> str:
    """``21.3 ms``; without a unit with a suffix, as ``parse_amount`` reads it: ``1.5M``."""
    if unit:
        return f"{_plain(value, digits)} {unit}"
    for suffix in ("T", "G", "M", "k"):
        if abs(value) >= SUFFIXES[suffix.lower()]:
            return f"{_plain(value / SUFFIXES[suffix.lower()], digits)}{suffix}"
    return _plain(value, digits)


def _plain(value: float, digits: int) -> str:
    """Significant digits without an exponent: ``{:g}`` writes 1e+03 for 999.9."""
    return np.format_float_positional(value, precision=digits, unique=False, fractional=False, trim="-")


def parse_amount(text: str, option: str) -> float:
    """A count as people write it: ``1.5M``, ``200k``, ``2G``, ``1e6``, ``950``.

    Args:
        option: named in the error.

    Raises:
        UsageError: for anything else, and for what is not positive and finite.
    """
    match = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([kmgt]?)\s*", text, re.IGNORECASE | re.ASCII)
    value = float(match[1]) * SUFFIXES[match[2].lower()] if match else math.nan
    if not 0 < value < math.inf:
        raise UsageError(
            f"{option} is a positive number, with k, M, G or T after it or not",
            value=text,
            remedy="For example 1.5M, 200k or 1e6.",
        )
    return value


def fronts(values: ArrayLike) -> NDArray[np.int64]:
    """The Pareto front that each point is in: 1 where nothing dominates it, then 1 without those, and so on.

    A point dominates another when it is at least as good in every column and better in one. In O(n log n) for one or
    two columns, by efficient non-dominated sort (ENS-BS: Zhang, Tian, Cheng and Jin 2015) for more.

    Args:
        values: (n, k), all to be maximised. Rows with a NaN share the front after the last.

    Returns:
        (n,), from 1.
    """
    points = np.asarray(values, dtype=float)
    assert points.ndim == 2, points.shape
    found = np.zeros(len(points), dtype=np.int64)
    whole = ~np.isnan(points).any(axis=1)
    if whole.any():
        # from the best to the worst, column by column: whatever dominates a point comes before it, and equals are one
        distinct, which = np.unique(-points[whole], axis=0, return_inverse=True)
        numbers = {1: _one_column, 2: _two_columns}.get(points.shape[1], _columns)(-distinct)
        found[whole] = numbers[which.reshape(-1)]
    found[~whole] = found.max(initial=0) + 1
    return found


def _one_column(points: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.arange(1, len(points) + 1)


def _two_columns(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """A front dominates the next point if its best second column is no worse; these bests fall from front to front."""
    bests: list[float] = []  # negated, so that they rise
    found = np.empty(len(points), dtype=np.int64)
    for i, second in enumerate(points[:, 1].tolist()):
        front = bisect_right(bests, -second)
        if front == len(bests):
            bests.append(-second)
        else:
            bests[front] = -second
        found[i] = front + 1
    return found


def _columns(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """What front f does not dominate, no later one does: the first such is found by bisection."""
    rest = np.ascontiguousarray(points[:, 1:])  # the first column is in order already
    members: list[NDArray[np.float64]] = []  # arrays with room for more
    sizes: list[int] = []
    found = np.empty(len(points), dtype=np.int64)
    for i, point in enumerate(rest):
        low, high = 0, len(members)
        while low < high:
            middle = (low + high) // 2
            if (members[middle][: sizes[middle]] >= point).all(axis=1).any():
                low = middle + 1
            else:
                high = middle
        if low == len(members):
            members.append(np.empty((8, rest.shape[1])))
            sizes.append(0)
        elif sizes[low] == len(members[low]):
            members[low] = np.concatenate([members[low], np.empty_like(members[low])])
        members[low][sizes[low]] = point
        sizes[low] += 1
        found[i] = low + 1
    return found


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Volume of what the points dominate, down to the reference (Zitzler and Thiele 1998). Exact.

    By slices along the last column: O(n log n) for two columns, O(n^2) for three, and a factor n for each further one.

    Args:
        values: (n, k), all to be maximised; rows with a NaN, or not above the reference in every column, add nothing.
        reference: (k,).
    """
    points = np.asarray(values, dtype=float)
    corner = np.asarray(reference, dtype=float)
    assert points.ndim == 2 and corner.shape == points.shape[1:], (points.shape, corner.shape)
    return _volume(points[(points > corner).all(axis=1)] - corner)


def _volume(points: NDArray[np.float64]) -> float:
    """From the origin; every number is positive."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points.max())
    if points.shape[1] == 2:
        points = points[np.argsort(-points[:, 0], kind="stable")]
        heights = np.maximum.accumulate(points[:, 1])
        return float(points[:, 0] @ np.diff(heights, prepend=0.0))
    points = np.unique(points[fronts(points) == 1], axis=0)
    points = points[np.argsort(-points[:, -1], kind="stable")]
    levels = [*points[:, -1].tolist(), 0.0]
    slices = enumerate(itertools.pairwise(levels), start=1)
    return math.fsum((upper - lower) * _volume(points[:n, :-1]) for n, (upper, lower) in slices if upper > lower)
