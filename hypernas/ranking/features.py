"""What a calibration learns from: signals, and what a graph says of its network before anything is trained.

Of a graph, it is what a path from input to output meets, carried from node to node, so that no path is listed. A *walk*
goes back from the output and takes each input of a node with equal probability: the means and variances of what it
meets add up over a chain of blocks, and a residual connection shows as spread. No feature knows any search space.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hypernas.graphs.architecture import Architecture, Node

__all__ = ["Features", "architecture_features"]

Floats = NDArray[np.float64]

STEPS = ("conv", "wide_conv", "pool", "activation")  # wide: with a kernel above 1x1
SPREADS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # activations come with convolutions
# What is left of a path's weight after a step of each kind: the log of the sum over all paths is then about their
# number where little is lost, and about the shortest path where most is.
LEFT = {
    "paths": (1.0, 1.0, 1.0, 1.0),
    "few_convs": (0.3, 1.0, 1.0, 1.0),
    "few_wide_convs": (1.0, 0.3, 1.0, 1.0),
    "few_pools": (1.0, 1.0, 0.3, 1.0),
    "few_steps": (0.3, 1.0, 0.3, 1.0),
    "fewest_convs": (0.05, 1.0, 1.0, 1.0),
    "fewest_pools": (1.0, 1.0, 0.05, 1.0),
    "fewest_steps": (0.05, 1.0, 0.05, 1.0),
}
NAMES = (
    *(f"mean_{step}" for step in STEPS),
    *(f"spread_{STEPS[i]}_{STEPS[j]}" for i, j in SPREADS),
    *(f"most_{step}" for step in STEPS),
    *(f"log_{name}" for name in LEFT),
    "log_variance",
    "log_gradient",
)
POOLS = frozenset({"max_pool", "average_pool"})
NORMS = frozenset({"batch_norm", "layer_norm", "group_norm"})
ACTIVATIONS = frozenset({"relu", "relu6", "gelu", "silu", "sigmoid"})
RECTIFIED = (0.5 - 0.5 / math.pi, 0.5)  # the variance of relu(N(0, 1)), and the mean square of its derivative


class _Walks(NamedTuple):
    """Of all walks that reach a node; by STEPS, SPREADS, STEPS and LEFT."""

    mean: list[float]
    spread: list[float]
    most: list[float]
    weight: list[float]


def architecture_features(architecture: Architecture) -> dict[str, float]:
    """Name -> value, the same names for every architecture; all 0 where no path leads from input to output."""
    walks: dict[str, _Walks] = {}
    inputs: dict[str, Counter[str]] = {}  # of the nodes that something reaches
    for node in architecture.nodes:
        if node.op in {"parameter", "zeros"}:
            continue
        sources = [name for name in node.inputs if name in walks]
        if sources or node.op == "input":
            inputs[node.name] = Counter(sources)
            walks[node.name] = _onward([walks[name] for name in sources], _steps(node, architecture))
    end = walks.get(architecture.output)
    if end is None:
        return dict.fromkeys(NAMES, 0.0)
    values = [*end.mean, *end.spread, *end.most, *map(math.log, end.weight), *_propagation(architecture, inputs)]
    return dict(zip(NAMES, values, strict=True))


def _steps(node: Node, architecture: Architecture) -> tuple[float, ...]:
    if node.op == "conv":
        return 1.0, float(max(architecture.shapes[node.inputs[1]][2:]) > 1), 0.0, 0.0
    return float(node.op == "linear"), 0.0, float(node.op in POOLS), float(node.op in ACTIVATIONS)


def _onward(sources: Sequence[_Walks], steps: tuple[float, ...]) -> _Walks:
    """One more node: the walks of its inputs meet, and go through its steps."""
    left = [math.prod(t for t, step in zip(of, steps, strict=True) if step) for of in LEFT.values()]
    if not sources:
        return _Walks(list(steps), [0.0] * len(SPREADS), list(steps), left)
    n = len(sources)
    mean = [sum(column) / n for column in zip(*(s.mean for s in sources), strict=True)]
    if n == 1:
        spread = sources[0].spread
    else:  # the variance within each input, and that between them
        off = [[a - b for a, b in zip(s.mean, mean, strict=True)] for s in sources]
        spread = [
            sum(s.spread[k] + d[i] * d[j] for s, d in zip(sources, off, strict=True)) / n
            for k, (i, j) in enumerate(SPREADS)
        ]
    return _Walks(
        [a + b for a, b in zip(mean, steps, strict=True)],
        spread,
        [max(c) + b for c, b in zip(zip(*(s.most for s in sources), strict=True), steps, strict=True)],
        [sum(c) * b for c, b in zip(zip(*(s.weight for s in sources), strict=True), left, strict=True)],
    )


def _propagation(architecture: Architecture, inputs: Mapping[str, Counter[str]]) -> tuple[float, float]:
    """Mean over sums of the log-variance of activations and gradients at random weights, branches independent.

    Mean-field theory as in Yang et al. 2019: sums add variances, a normalisation divides the gradient by what it takes
    away. Poolings count as transparent, though they take variance too: by how much depends on what they average.
    """
    variance: dict[str, float] = {}
    gradient: dict[str, float] = {architecture.output: 1.0}
    nodes = [node for node in architecture.nodes if node.name in inputs]
    for node in nodes:
        found = [variance[name] for name in inputs[node.name].elements()]
        if node.op in NORMS or not found:
            variance[node.name] = 1.0
        elif node.op == "add":  # one value taken twice is doubled
            variance[node.name] = sum(variance[name] * k * k for name, k in inputs[node.name].items())
        else:
            factor = RECTIFIED[0] if node.op in ACTIVATIONS else 1.0
            variance[node.name] = factor * sum(found) / len(found)
    for node in reversed(nodes):
        if node.name not in gradient:
            continue
        for name, k in inputs[node.name].items():
            factor = 1.0
            if node.op in NORMS:
                factor = 1 / max(variance[name], 1e-12)
            elif node.op == "add":
                factor = k * k
            elif node.op in ACTIVATIONS:
                factor = RECTIFIED[1]
            elif node.op == "conv":
                n_out, n_in, *_ = architecture.shapes[node.inputs[1]]
                factor = n_out / n_in
            gradient[name] = gradient.get(name, 0.0) + factor * gradient[node.name]
    sums = [node.name for node in nodes if node.op == "add" and node.name in gradient]
    if not sums:
        return 0.0, 0.0
    means = [sum(math.log(max(of[name], 1e-300)) for name in sums) / len(sums) for of in (variance, gradient)]
    return means[0], means[1]


@dataclass(frozen=True)
class Features:
    """A table of features, one row a candidate.

    Attributes:
        values: (m, d).
        weights: (d,) relative importance: the signals count as much as the graph, however many there are of either.
        notes: full sentences on what is left out.
    """

    names: tuple[str, ...]
    values: Floats
    weights: Floats
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, signals: Mapping[str, Floats], graphs: Sequence[Mapping[str, float]] | None = None) -> Features:
        """From columns (m,) of signals, and the ``architecture_features`` of each candidate where they are known.

        Columns that are equal for all candidates, or rank them as an earlier one does, are left out.
        """
        families: list[Mapping[str, Floats]] = [signals]
        if graphs:
            families.append({name: np.array([graph[name] for graph in graphs]) for name in graphs[0]})
        names: list[str] = []
        notes: list[str] = []
        columns: list[Floats] = []
        weights: list[float] = []
        for family, of in enumerate(families):
            known: dict[bytes, str] = {}
            for name, values in of.items():
                distinct, ranks = np.unique(values, return_inverse=True)
                twin = known.setdefault(ranks.tobytes(), name)
                if len(distinct) < 2 or twin != name:
                    why = "is equal for all" if len(distinct) < 2 else f"ranks as {twin!r} does"
                    notes += [f"Column {name!r} {why}, and is ignored."] if family == 0 else []
                    continue
                names.append(name)
                columns.append(values)
            weights += [1 / max(1, len(names) - len(weights))] * (len(names) - len(weights))
        size = len(next(iter(families[-1].values()), np.zeros(0)))
        values = np.stack(columns, axis=1) if columns else np.zeros((size, 0))
        return cls(tuple(names), values, np.array(weights), tuple(notes))
