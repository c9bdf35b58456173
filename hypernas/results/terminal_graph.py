"""Small graphs as lines of text: each vertex has a lane that runs down from it, and a dot where it is read.

A row an edge, labelled with its operation; an edge crosses lanes (``┼``) and touches one only at a dot::

    k−2 k−1
     ●───┼─── conv_3x3 ─────╮
     │   ●─── max_pool_3x3 ─┤
     │       2 ◂────────────╯

The order is that of the vertices, from top to bottom and from left to right, so nothing has to be laid out.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypernas.graphs.architecture import SOURCES, Architecture, Node
from hypernas.graphs.cell_drawing import N_INPUTS, cells_of

__all__ = ["Vertex", "draw_dag", "graph_lines", "graphs_of", "listing"]

LANE = 4  # columns between lanes, enough for the names of a cell's inputs
FIRST = 2  # column of the first lane
CELL_INPUTS = ("k−2", "k−1")


@dataclass(frozen=True)
class Vertex:
    """One vertex.

    Attributes:
        name: what stands at it; a number for a sum.
        inputs: (operation on the edge or None, number of the vertex that it comes from), an edge each.
    """

    name: str
    inputs: tuple[tuple[str | None, int], ...] = ()


def graphs_of(structure: Any) -> dict[str, tuple[Vertex, ...]]:
    """The small graphs in an architecture's structure, by name: cells with operations on their edges
    (``[[[operation, source], ...], ...]``) or at their vertices (``[[operation, [source, ...]], ...]``); else none.
    """
    graphs = {name: _cell(edges) for name, edges in cells_of(structure).items()}
    for name, value in structure.items() if isinstance(structure, Mapping) else ():
        if name not in graphs and _is_graph(value):
            graphs[str(name)] = tuple(Vertex(op, tuple((None, s) for s in sources)) for op, sources in value)
    return graphs


def _cell(edges: Sequence[Sequence[tuple[str, int]]]) -> tuple[Vertex, ...]:
    sums = [Vertex(str(N_INPUTS + k), tuple(node)) for k, node in enumerate(edges)]
    end = Vertex("concat", tuple((None, N_INPUTS + k) for k in range(len(sums))))
    return (*map(Vertex, CELL_INPUTS), *sums, end)


def _is_graph(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(map(_is_vertex, value)):
        return False
    return all(0 <= source < k for k, (_, sources) in enumerate(value) for source in sources)


def _is_vertex(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], list)
        and all(isinstance(source, int) for source in value[1])
    )


def draw_dag(vertices: Sequence[Vertex], width: int) -> list[str] | None:
    """The graph as lines of at most ``width`` columns; None where it does not fit (see ``listing``)."""
    rows = _Rows(vertices)
    for k, vertex in enumerate(vertices):
        rows.add(k, vertex)
    lines = ["".join(row).rstrip() for row in rows.done]
    return lines if max(map(len, lines)) <= width else None


def _column(k: int) -> int:
    return FIRST + LANE * k


class _Rows:
    """Rows of characters, from the first vertex on."""

    def __init__(self, vertices: Sequence[Vertex]) -> None:
        self.done: list[list[str]] = []
        ends = Counter(source for vertex in vertices for _, source in vertex.inputs)
        self.left = [ends[k] for k in range(len(vertices))]  # times that each is yet to be read
        self.longest = max((len(label) for vertex in vertices for label, _ in vertex.inputs if label), default=0)
        self.shared = -1  # the row that further inputs may share

    def add(self, k: int, vertex: Vertex) -> None:
        if not vertex.inputs:
            self._add_source(k, vertex.name)
            return
        labelled = [(label, source) for label, source in vertex.inputs if label is not None]
        for i, (label, source) in enumerate(labelled):
            fill = "─" * (self.longest - len(label) + 1)
            self.done.append([*self._tap(k, [source]), *f"── {label} {fill}{'┤' if i else '╮'}"])
        waiting = [source for label, source in vertex.inputs if label is None]
        while waiting:  # one that is read twice has a dot in each of two rows
            now = list(dict.fromkeys(waiting))
            for source in now:
                waiting.remove(source)
            self.done.append([*self._tap(k, now), "┤" if len(now) < len(vertex.inputs) and not waiting else "╮"])
        back = f" ◂{'─' * (self.longest + 3 - len(vertex.name))}╯" if labelled else ""
        self.done.append([*self._lanes(k), *vertex.name, *back])

    def _add_source(self, k: int, name: str) -> None:
        at = _column(k) - (len(name) == len(CELL_INPUTS[0]))  # such a short one is in the middle over its lane
        if not self.done or k - 1 != self.shared or len(self.done[-1]) >= at:
            self.done.append(self._lanes(k))
        row = self.done[-1][:at]
        self.done[-1] = [*row, *" " * (at - len(row)), *name]
        self.shared = k

    def _lanes(self, k: int) -> list[str]:
        """The row up to the lane of vertex ``k``: those before it that are yet to be read."""
        row = [" "] * _column(k)
        for j in range(k):
            if self.left[j]:
                row[_column(j)] = "│"
        return row

    def _tap(self, k: int, sources: Sequence[int]) -> list[str]:
        """A row with a line from a dot at each of the sources to the lane of vertex ``k``."""
        row = self._lanes(k)
        for column in range(_column(min(sources)) + 1, len(row)):
            row[column] = "┼" if row[column] == "│" else "─"
        for source in sources:
            row[_column(source)] = "●"
            self.left[source] -= 1
        return row


def listing(vertices: Sequence[Vertex], width: int) -> list[str]:
    """The graph in words, a vertex each: ``3 = conv_3x3(k−1) + skip(2)``, or ``3 = sum(1, 2)``."""
    lines = []
    for k, vertex in enumerate(vertices):
        if any(label is not None for label, _ in vertex.inputs):
            terms = [f"{label}({vertices[source].name})" for label, source in vertex.inputs]
            text = f"{vertex.name} = {' + '.join(terms)}"
        elif vertices[0].name == CELL_INPUTS[0]:
            text = f"{vertex.name}({', '.join(vertices[source].name for _, source in vertex.inputs)})"
        else:
            text = f"{k} = {vertex.name}({', '.join(str(source) for _, source in vertex.inputs)})"
        if vertex.inputs or vertices[0].name != CELL_INPUTS[0]:
            lines += textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False)
    return lines


def graph_lines(architecture: Architecture, width: int) -> list[str]:
    """A whole network, a line for each chain of operations: ``12 = conv_3x3, batch_norm, relu (9)  [32 x 16 x 16]``.

    In brackets are the chains that it reads and the shape of its last value, for one image. Weights are left out.
    """
    nodes = {node.name: node for node in architecture.nodes if node.op not in SOURCES}
    reads = {name: [one for one in node.inputs if one in nodes] for name, node in nodes.items()}
    n_readers = Counter(source for sources in reads.values() for source in sources)
    chains: list[list[Node]] = []
    chain_of: dict[str, int] = {}
    for name, node in nodes.items():
        sources = reads[name]
        if len(sources) == 1 and n_readers[sources[0]] == 1:  # its only reader: the chain goes on
            chain_of[name] = chain_of[sources[0]]
            chains[chain_of[name]].append(node)
        else:
            chain_of[name] = len(chains)
            chains.append([node])
    lines = []
    for k, chain in enumerate(chains):
        given = ", ".join(str(chain_of[source]) for source in reads[chain[0].name])
        words = ", ".join(_in_words(architecture, node) for node in chain)
        shape = " x ".join(map(str, architecture.shapes[chain[-1].name]))
        text = f"{k} = {words}{f' ({given})' if given else ''}  [{shape}]"
        lines += textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False)
    return lines


def _in_words(architecture: Architecture, node: Node) -> str:
    """The operation with its kernel: ``conv_3x3``, ``depthwise_conv_5x5``, ``max_pool_3x3``."""
    kernel = node.attributes.get("kernel")
    if node.op != "conv":
        sides = kernel if isinstance(kernel, Sequence) else (kernel, kernel)
        return node.op if kernel is None else f"{node.op}_{'x'.join(map(str, sides))}"
    weight = architecture.shapes[node.inputs[1]]
    kind = "depthwise_conv" if 1 < node.attributes["groups"] == weight[0] else "conv"
    return f"{kind}_{'x'.join(map(str, weight[2:]))}"
