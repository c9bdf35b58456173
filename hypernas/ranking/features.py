"""What a network's graph says of it before anything is trained: what a path from the input to the output meets.

The values are sums over paths, carried from node to node as in dynamic programming, so that no path is listed. A *walk*
goes back from the output and takes each input of a node with equal probability; a chain of blocks then adds up its
blocks' values, and a residual connection shows as the spread between its walks. No feature knows any search space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from hypernas.graphs.architecture import Architecture, Node

__all__ = ["architecture_features"]

STEPS = ("conv", "wide_conv", "pool", "activation")
SPREAD = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of STEPS: what a walk's variances and covariances are of
POOLS = frozenset({"max_pool", "average_pool"})
ACTIVATIONS = frozenset({"relu", "relu6", "gelu", "silu", "sigmoid"})
# What a path keeps of its weight at each step of STEPS: the log of the sum over all paths is a soft count of short ones.
DECAYS = {
    "conv": (0.3, 1.0, 1.0, 1.0),
    "wide_conv": (1.0, 0.3, 1.0, 1.0),
    "pool": (1.0, 1.0, 0.3, 1.0),
    "conv_or_pool": (0.3, 1.0, 0.3, 1.0),
    "first_conv": (0.05, 1.0, 1.0, 1.0),
    "first_pool": (1.0, 1.0, 0.05, 1.0),
    "first": (0.05, 1.0, 0.05, 1.0),
}
FADE = 0.5  # what an earlier step still counts after one more of the other kind


class _Walks(NamedTuple):
    """Of all walks that reach a node: means, covariances, ends, log-weights and orders."""

    mean: list[float]
    spread: list[float]
    least: list[float]
    most: list[float]
    weight: list[float]
    order: list[float]


def architecture_features(architecture: Architecture) -> dict[str, float]:
    """Name -> value, the same names for every architecture; all of a network without a path are 0 but its sizes."""
    found: dict[str, _Walks] = {}
    for node in architecture.nodes:
        if node.op == "parameter" or node.op == "zeros":
            continue  # nothing comes through zeros
        sources = [found[name] for name in node.inputs if name in found]
        if sources or node.op == "input":
            found[node.name] = _after(sources, _steps(node, architecture))
    sizes = {"log_params": math.log1p(architecture.n_parameters), "log_flops": math.log1p(architecture.flops)}
    end = found.get(architecture.output)
    names = [
        *(f"mean_{step}" for step in STEPS),
        *(f"spread_{STEPS[i]}_{STEPS[j]}" for i, j in SPREAD),
        *(f"least_{step}" for step in STEPS),
        *(f"most_{step}" for step in STEPS),
        *(f"paths_{name}" for name in DECAYS),
        "log_paths",
        "pool_then_conv",
        "conv_then_pool",
        "pool_then_conv_all",
        "conv_then_pool_all",
        "conv_conv",
    ]
    values = (
        [0.0] * len(names)
        if end is None
        else [*end.mean, *end.spread, *end.least, *end.most, *(math.log(w) for w in end.weight), *end.order]
    )
    return {**sizes, **dict(zip(names, values, strict=True))}


def _steps(node, architecture):
    if node.op == "conv":
        wide = max(architecture.shapes[node.inputs[1]][2:]) > 1
        return (1.0, float(wide), 0.0, 0.0)
    return (float(node.op == "linear"), 0.0, float(node.op in POOLS), float(node.op in ACTIVATIONS))


def _after(sources, steps):
    decay = [math.prod(t**s for t, s in zip(v, steps)) for v in DECAYS.values()] + [1.0]
    if not sources:
        return _Walks([0.0] * 4, [0.0] * len(SPREAD), [0.0] * 4, [0.0] * 4, [1.0] * len(decay), [0.0] * 5)
    n = len(sources)
    if n == 1:
        mean, spread, least, most, weight, order = sources[0]
    else:
        mean = [sum(c) / n for c in zip(*(s.mean for s in sources))]
        gap = [[m - x for m, x in zip(s.mean, mean)] for s in sources]
        spread = [sum(s.spread[k] + g[i] * g[j] for s, g in zip(sources, gap)) / n for k, (i, j) in enumerate(SPREAD)]
        least = [min(c) for c in zip(*(s.least for s in sources))]
        most = [max(c) for c in zip(*(s.most for s in sources))]
        weight = [sum(c) for c in zip(*(s.weight for s in sources))]
        order = [sum(c) / n for c in zip(*(s.order for s in sources))]
    a, b, c, d, e = order
    conv, _, pool, _ = steps
    order = [
        a * (FADE if conv else 1) + pool,
        b * (FADE if pool else 1) + conv,
        c + pool * e,
        d + conv * mean[2],
        e + conv,
    ]
    return _Walks(
        [m + s for m, s in zip(mean, steps)],
        spread,
        [m + s for m, s in zip(least, steps)],
        [m + s for m, s in zip(most, steps)],
        [w * x for w, x in zip(weight, decay)],
        order,
    )
