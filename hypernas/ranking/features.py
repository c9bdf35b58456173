"""What can be read off an architecture's graph, for a model that learns from trained networks.

Counts of operations, and what a path from input to output meets: at most, at least, and on average over a walk that
goes back from the output and takes each input of a node with equal probability. A residual connection lowers the least,
parallel branches spread the average; no feature knows any search space.
"""

from __future__ import annotations

import math
from collections import Counter

from hypernas.graphs.architecture import Architecture, Node

__all__ = ["FEATURES_VERSION", "architecture_features"]

FEATURES_VERSION = 1
# operations that a path may meet, as (name of the feature, which nodes count)
STEPS = ("conv", "wide_conv", "pool", "activation")
ACTIVATIONS = frozenset({"relu", "relu6", "gelu", "silu", "sigmoid"})


def architecture_features(architecture: Architecture) -> dict[str, float]:
    """Name -> value; ``count_...`` only for what occurs, everything else always."""
    shapes = architecture.shapes
    walk: dict[str, list[float]] = {}
    least: dict[str, list[float]] = {}
    most: dict[str, list[float]] = {}
    square: dict[str, float] = {}
    paths: dict[str, float] = {}
    kinds: Counter[str] = Counter()
    for node in architecture.nodes:
        if node.op == "parameter":
            continue
        steps = _steps(node, architecture)
        sources = [name for name in node.inputs if name in paths]
        if node.op == "zeros" or (node.inputs and not sources):
            continue  # nothing comes through
        kinds[_kind(node, architecture)] += 1
        if not sources:
            walk[node.name] = least[node.name] = most[node.name] = list(steps)
            square[node.name], paths[node.name] = 0.0, 1.0
            continue
        n = len(sources)
        columns = list(zip(*(walk[s] for s in sources), strict=True))
        walk[node.name] = [sum(column) / n + step for column, step in zip(columns, steps, strict=True)]
        before = sum(column for column in columns[0]) / n
        square[node.name] = sum(square[s] + (walk[s][0] - before) ** 2 for s in sources) / n
        least[node.name] = [
            min(c) + s for c, s in zip(zip(*(least[s] for s in sources), strict=True), steps, strict=True)
        ]
        most[node.name] = [
            max(c) + s for c, s in zip(zip(*(most[s] for s in sources), strict=True), steps, strict=True)
        ]
        paths[node.name] = sum(paths[s] for s in sources)
    end = architecture.output
    found = {f"count_{kind}": math.log1p(count) for kind, count in sorted(kinds.items())}
    found["log_params"] = math.log1p(architecture.n_parameters)
    found["log_flops"] = math.log1p(architecture.flops)
    found["is_constant"] = float(end not in paths)
    nothing = [0.0] * len(STEPS)
    for name, values in (("walk", walk), ("least", least), ("most", most)):
        found |= {f"{name}_{step}": value for step, value in zip(STEPS, values.get(end, nothing), strict=True)}
    found["spread_conv"] = math.sqrt(square.get(end, 0.0))
    found["log_paths"] = math.log1p(paths.get(end, 0.0))
    return found


def _steps(node: Node, architecture: Architecture) -> list[float]:
    kind = node.op
    if kind == "conv":
        wide = max(architecture.shapes[node.inputs[1]][2:]) > 1
        return [1.0, float(wide), 0.0, 0.0]
    if kind == "linear":
        return [1.0, 0.0, 0.0, 0.0]
    return [0.0, 0.0, float(kind in ("max_pool", "average_pool")), float(kind in ACTIVATIONS)]


def _kind(node: Node, architecture: Architecture) -> str:
    if node.op == "conv":
        shape = architecture.shapes[node.inputs[1]]
        grouped = "_grouped" if node.attributes["groups"] > 1 else ""
        return f"conv_{shape[-2]}x{shape[-1]}{grouped}"
    return node.op
