"""Layered drawing of a DAG (Sugiyama, Tagawa and Toda 1981): layers, order within them, coordinates. No pictures here.

An edge that spans several layers becomes a chain of way points, one a layer, that take part in the ordering and the
placing like vertices: this is what keeps edges and their labels off the boxes.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Layout", "crossings", "lay_out", "longest_path_layers"]

Vertex = Hashable
N_SWEEPS = 12  # barycentre sweeps from one start; more rarely helped on cells or whole networks


@dataclass(frozen=True)
class Layout:
    """Where everything goes.

    Attributes:
        across: position of each vertex across its layer, in the unit of the sizes given; the least edge is at 0.
        width: extent across all layers.
    """

    across: Mapping[Vertex, float]
    width: float


def longest_path_layers(inputs: Mapping[Vertex, Sequence[Vertex]]) -> dict[Vertex, int]:
    """Layer of each vertex: the number of edges on the longest path that leads to it. Keys in topological order."""
    layers: dict[Vertex, int] = {}
    for vertex, sources in inputs.items():
        layers[vertex] = 1 + max((layers[source] for source in sources), default=-1)
    return layers


def crossings(upper: Sequence[Vertex], lower: Sequence[Vertex], before: Mapping[Vertex, Sequence[Vertex]]) -> int:
    """Pairs of edges that cross between neighbouring layers; ``before`` gives the upper ends of each lower vertex."""
    position = {vertex: i for i, vertex in enumerate(upper)}
    seen: list[int] = []
    n = 0
    for vertex in lower:
        ends = [position[source] for source in before.get(vertex, ())]
        n += sum(1 for end in ends for other in seen if other > end)
        seen.extend(ends)
    return n


def lay_out(
    layers: Sequence[Sequence[Vertex]],
    edges: Sequence[tuple[Vertex, Vertex]],
    sizes: Mapping[Vertex, float],
    *,
    gap: float,
    n_starts: int = 4,
) -> Layout:
    """Order each layer for few crossings, then place its vertices near their neighbours without overlap.

    Args:
        layers: the vertices of each layer, way points included.
        edges: each from one layer to the next.
        sizes: extent of each vertex across its layer.
        gap: least distance between neighbours in a layer.
        n_starts: the given order and ``n_starts - 1`` random ones (from a fixed seed) are improved; the best is kept.
    """
    before: dict[Vertex, list[Vertex]] = {}
    after: dict[Vertex, list[Vertex]] = {}
    for source, target in edges:
        before.setdefault(target, []).append(source)
        after.setdefault(source, []).append(target)
    ordered = _order(layers, before, after, n_starts)
    across = _place(ordered, before, after, sizes, gap)
    low = min(across[v] - sizes[v] / 2 for v in across)
    high = max(across[v] + sizes[v] / 2 for v in across)
    return Layout({v: x - low for v, x in across.items()}, high - low)


Neighbours = Mapping[Vertex, Sequence[Vertex]]


def _order(
    layers: Sequence[Sequence[Vertex]], before: Neighbours, after: Neighbours, n_starts: int
) -> list[list[Vertex]]:
    rng = random.Random(0)
    best: list[list[Vertex]] = []
    fewest = -1
    for start in range(n_starts):
        current = [list(layer) for layer in layers]
        if start:
            for layer in current:
                rng.shuffle(layer)
        for sweep in range(N_SWEEPS):
            down = sweep % 2 == 0
            indices = range(1, len(current)) if down else range(len(current) - 2, -1, -1)
            for i in indices:
                fixed = current[i - 1 if down else i + 1]
                current[i] = _by_barycentre(current[i], fixed, before if down else after)
                _swap_neighbours(current, i, before)
            total = sum(crossings(a, b, before) for a, b in itertools.pairwise(current))
            if fewest < 0 or total < fewest:
                best, fewest = [list(layer) for layer in current], total
            if fewest == 0:
                return best
    return best


def _by_barycentre(layer: list[Vertex], fixed: Sequence[Vertex], neighbours: Neighbours) -> list[Vertex]:
    position = {vertex: i for i, vertex in enumerate(fixed)}
    scale = (len(fixed) - 1) / max(len(layer) - 1, 1)
    keys = {}
    for i, vertex in enumerate(layer):
        ends = [position[end] for end in neighbours.get(vertex, ())]
        keys[vertex] = sum(ends) / len(ends) if ends else i * scale  # one without neighbours stays where it is
    return sorted(layer, key=keys.__getitem__)


def _swap_neighbours(layers: list[list[Vertex]], i: int, before: Neighbours) -> None:
    """Swap adjacent vertices of layer ``i`` as long as that removes a crossing on either side."""

    def cost(order: list[Vertex]) -> int:
        n = crossings(layers[i - 1], order, before) if i else 0
        return n + (crossings(order, layers[i + 1], before) if i + 1 < len(layers) else 0)

    layer = layers[i]
    lowest = cost(layer)
    for k in range(len(layer) - 1):
        if lowest == 0:
            return
        layer[k], layer[k + 1] = layer[k + 1], layer[k]
        swapped = cost(layer)
        if swapped < lowest:
            lowest = swapped
        else:
            layer[k], layer[k + 1] = layer[k + 1], layer[k]


def _place(
    layers: Sequence[Sequence[Vertex]], before: Neighbours, after: Neighbours, sizes: Mapping[Vertex, float], gap: float
) -> dict[Vertex, float]:
    """Move each layer toward the mean of its neighbours, in sweeps, keeping order and distances."""
    across: dict[Vertex, float] = {}
    for layer in layers:
        across.update(_separate(layer, dict.fromkeys(layer, 0.0), sizes, gap))
    for sweep in range(16):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = {}
            for vertex in layer:
                ends = [across[end] for end in (*before.get(vertex, ()), *after.get(vertex, ()))]
                wanted[vertex] = sum(ends) / len(ends) if ends else across[vertex]
            across.update(_separate(layer, wanted, sizes, gap))
    return across


def _separate(
    layer: Sequence[Vertex], wanted: Mapping[Vertex, float], sizes: Mapping[Vertex, float], gap: float
) -> dict[Vertex, float]:
    """The positions nearest to ``wanted`` (least squares) in which neighbours keep ``gap``: isotonic regression."""
    offsets = [0.0]
    for left, right in itertools.pairwise(layer):
        offsets.append(offsets[-1] + (sizes[left] + sizes[right]) / 2 + gap)
    blocks: list[tuple[float, int]] = []  # (mean, count), pooled until the means rise
    for vertex, offset in zip(layer, offsets, strict=False):
        mean, n = wanted[vertex] - offset, 1
        while blocks and blocks[-1][0] > mean:
            previous, m = blocks.pop()
            mean, n = (previous * m + mean * n) / (m + n), m + n
        blocks.append((mean, n))
    means = [mean for mean, n in blocks for _ in range(n)]
    return {vertex: mean + offset for vertex, mean, offset in zip(layer, means, offsets, strict=False)}
