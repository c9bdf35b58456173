"""Architectures for the tests, and the same architecture under other names and in another order."""

from __future__ import annotations

import random
from collections.abc import Mapping

import networkx as nx
import torch
from torch import Tensor

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.primitives import PRIMITIVES
from hypernas.networks.interpreter import compile_program
from hypernas.networks.network import random_weights


def small_network(width: int = 6, n_classes: int = 4, size: int = 8) -> Architecture:
    """Every kind of parameter, several slots, a shared weight, and no two nodes that play the same part."""
    g = Builder((3, size, size))
    stem = g.relu(g.batch_norm(g.conv(g.input, width, kernel=3, bias=True)))
    deep = g.conv(g.relu(g.conv(stem, width, kernel=5, groups=width, name="depthwise")), width, name="pointwise")
    tied = g.op("parameter", shape=(width, width, 1, 1), name="tied")
    both = g.op("add", g.op("conv", stem, tied), deep, g.op("conv", deep, tied))
    grouped = g.conv(both, width, kernel=3, groups=2, stride=2)
    gain = g.op("parameter", shape=(width, 1, 1), role="scale", name="gain")
    x = g.op("multiply", g.op("max_pool", grouped, kernel=3, stride=1, padding=1), gain)
    x = g.op("concat", x, g.op("average_pool", grouped, kernel=3, stride=1, padding=1))
    hidden = g.relu(g.linear(g.op("global_average_pool", x), 2 * width, name="hidden"))
    return g.finish(g.linear(hidden, n_classes, name="head"))


def chain(n_layers: int, width: int, *, size: int = 8, norm: bool = False) -> Architecture:
    """3x3 convolutions, each with a ReLU, batch-normalised if asked; the output is the last activation."""
    g = Builder((3, size, size))
    x = g.input
    for _ in range(n_layers):
        x = g.conv(x, width, kernel=3)
        x = g.relu(g.batch_norm(x) if norm else x)
    return g.finish(x)


def relabelled(architecture: Architecture, rng: random.Random) -> tuple[Architecture, dict[str, str]]:
    """The same network under random names, in random order, with the inputs of additions swapped; and old -> new."""
    old = architecture.to_networkx()
    names = list(old)
    rng.shuffle(names)
    new = dict(zip(names, rng.sample([f"n{i}" for i in range(10 * len(names))], len(names)), strict=True))
    graph = nx.MultiDiGraph(output=new[architecture.output])
    for name in names:
        graph.add_node(new[name], op=old.nodes[name]["op"], attributes=old.nodes[name]["attributes"])
    for name in names:
        edges = list(old.in_edges(name, data="slot"))
        slots = [slot for _, _, slot in edges]
        if PRIMITIVES[old.nodes[name]["op"]].commutative:
            rng.shuffle(slots)
        for (source, _, _), slot in zip(edges, slots, strict=True):
            graph.add_edge(new[source], new[name], slot=slot)
    return Architecture.from_networkx(graph), new


def images(architecture: Architecture, n: int = 4) -> Tensor:
    return torch.randn(n, *architecture.input_shape, generator=torch.Generator().manual_seed(1))


def logits(architecture: Architecture, weights: Mapping[str, Tensor] | None = None, n: int = 4) -> Tensor:
    weights = random_weights(architecture, 0) if weights is None else weights
    return compile_program(architecture).run(images(architecture, n), weights)
