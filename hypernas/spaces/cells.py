"""Cells: small DAGs that a network stacks, after NASNet (Zoph et al. 2018) and DARTS (Liu et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypernas.graphs.builder import Builder
from hypernas.graphs.canonical import canonical_order
from hypernas.spaces.space import Chooser

__all__ = ["OPERATIONS", "Cell", "choose_cell", "is_reduction"]

N_INPUTS = 2  # a cell reads the outputs of the two cells before it


@dataclass(frozen=True)
class Cell:
    """Intermediate nodes, each the sum of its edges; the output concatenates all nodes.

    Attributes:
        nodes: for each node its edges ``(operation, source)``; sources 0 and 1 are the cell's inputs (the output of
            the cell before the last, and of the last), 2 and up the nodes before it.
    """

    nodes: tuple[tuple[tuple[str, int], ...], ...]

    def canonical(self) -> Cell:
        """The same cell with nodes and edges in canonical order: isomorphic cells become equal."""
        used = sorted({source for edges in self.nodes for _, source in edges if source < N_INPUTS})
        labels = [f"input {source}" for source in used]
        inputs: list[list[int]] = [[] for _ in used]
        state = {source: i for i, source in enumerate(used)}
        sums: dict[int, int] = {}
        for k, edges in enumerate(self.nodes):
            slots = []
            for operation, source in edges:
                slots.append(len(labels))
                labels.append(operation)
                inputs.append([state[source]])
            state[N_INPUTS + k] = sums[k] = len(labels)
            labels.append("sum")
            inputs.append(slots)
        labels.append("output")
        inputs.append(list(sums.values()))
        commutative = [label in ("sum", "output") for label in labels]
        rank = {node: i for i, node in enumerate(canonical_order(labels, inputs, commutative, len(labels) - 1))}
        order = sorted(sums, key=lambda k: rank[sums[k]])
        renamed = {0: 0, 1: 1, **{N_INPUTS + k: N_INPUTS + i for i, k in enumerate(order)}}
        return Cell(tuple(tuple(sorted((op, renamed[source]) for op, source in self.nodes[k])) for k in order))

    def to_json(self) -> list[list[list[str | int]]]:
        return [[[operation, source] for operation, source in edges] for edges in self.nodes]


def choose_cell(choose: Chooser, name: str, operations: Sequence[str], n_nodes: int = 4, n_edges: int = 2) -> Cell:
    """A cell by decisions ``{name}.{node}.op{edge}`` and ``{name}.{node}.in{edge}``, in canonical order."""
    nodes = []
    for k in range(N_INPUTS, N_INPUTS + n_nodes):
        edges = []
        for e in range(n_edges):
            operation = choose(f"{name}.{k}.op{e}", operations)
            edges.append((str(operation), int(choose(f"{name}.{k}.in{e}", range(k)))))
        nodes.append(tuple(edges))
    return Cell(tuple(nodes)).canonical()


def is_reduction(cell: int, n_cells: int, n_reductions: int) -> bool:
    """Whether a cell halves the spatial size: reductions stand at equal distances (DARTS: a third, two thirds)."""
    return cell in {(r + 1) * n_cells // (n_reductions + 1) for r in range(n_reductions)}


# --- operations on an edge: (builder, activation, its ReLU, channels, stride) -> activation -------------------------
# Every operation that starts with a ReLU is given the one that its source shares, so that it is computed once.


def _conv(kernel: int) -> Callable[[Builder, str, str, int, int], str]:
    def operation(g: Builder, x: str, activated: str, channels: int, stride: int) -> str:
        return g.batch_norm(g.conv(activated, channels, kernel=kernel, stride=stride))

    return operation


def _depthwise(g: Builder, x: str, channels: int, kernel: int, stride: int, dilation: int) -> str:
    n = g.shape(x)[0]
    x = g.conv(x, n, kernel=kernel, stride=stride, dilation=dilation, groups=n, name="depthwise")
    return g.batch_norm(g.conv(x, channels, name="pointwise"))


def _separable(kernel: int) -> Callable[[Builder, str, str, int, int], str]:
    def operation(g: Builder, x: str, activated: str, channels: int, stride: int) -> str:
        half = _depthwise(g, activated, channels, kernel, stride, 1)  # applied twice, as in NASNet
        return _depthwise(g, g.relu(half), channels, kernel, 1, 1)

    return operation


def _dilated(kernel: int) -> Callable[[Builder, str, str, int, int], str]:
    return lambda g, x, activated, channels, stride: _depthwise(g, activated, channels, kernel, stride, 2)


def _pool(kind: str) -> Callable[[Builder, str, str, int, int], str]:
    return lambda g, x, activated, channels, stride: g.op(kind, x, kernel=3, stride=stride, padding=1)


def _skip(g: Builder, x: str, activated: str, channels: int, stride: int) -> str:
    return x if stride == 1 else g.batch_norm(g.conv(activated, channels, stride=stride))


OPERATIONS: dict[str, Callable[[Builder, str, str, int, int], str]] = {
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "dil_conv_3x3": _dilated(3),
    "dil_conv_5x5": _dilated(5),
    "conv_3x3": _conv(3),
    "conv_1x1": _conv(1),
    "max_pool_3x3": _pool("max_pool"),
    "avg_pool_3x3": _pool("average_pool"),
    "skip": _skip,
}


def add_cell(g: Builder, cell: Cell, before: str, last: str, channels: int, *, reduce: bool) -> str:
    """Append a cell to the network that ends in ``last`` (and ``before`` it); returns the cell's output."""
    size = g.shape(last)[1]
    states = []
    for k, x in enumerate((before, last)):
        with g.scope(f"input{k}"):  # bring both inputs to the cell's channels and to the size of the last
            stride = 1 if g.shape(x)[1] == size else 2
            states.append(g.batch_norm(g.conv(g.relu(x), channels, stride=stride)))
    activated: dict[int, str] = {}
    for k, edges in enumerate(cell.nodes):
        ends = []
        for e, (operation, source) in enumerate(edges):
            stride = 2 if reduce and source < N_INPUTS else 1
            with g.scope(f"node{k}.edge{e}"):
                if source not in activated:
                    activated[source] = g.relu(states[source])
                ends.append(OPERATIONS[operation](g, states[source], activated[source], channels, stride))
        with g.scope(f"node{k}"):
            states.append(g.op("add", *ends, name="sum"))
    return g.op("concat", *states[N_INPUTS:], name="output")
