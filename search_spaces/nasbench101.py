"""``nasbench101``: the cells of NAS-Bench-101 (Ying et al. 2019), in their native strings.

A cell is a DAG of up to seven vertices and nine edges, its input and output among the vertices; a vertex adds what it
reads and applies an operation, and the output concatenates. Three stacks of three cells at full size; a max-pooling
before the second and third, which double the channels. What is not on a path from input to output is pruned first, and
edges are counted after it, as in the benchmark.

Vertices that feed the output share its channels, so that some have one more than others; where such a vertex feeds a
narrower one, the benchmark cuts the last channel off. Here that vertex is built as two *parts*, side by side, and the
narrower vertex reads the first: the same function, with as many parameters. The wider vertices are the first in
canonical order, in the benchmark the first in the matrix: with a remainder, sizes may differ by that channel.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from hypernas.errors import SpaceError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.canonical import canonical_order
from hypernas.graphs.primitives import Shape
from hypernas.spaces.cells import is_reduction
from hypernas.spaces.space import Choice, Chooser, Scale, SearchSpace

KERNELS = {"conv1x1-bn-relu": 1, "conv3x3-bn-relu": 3}
POOL = "maxpool3x3"
OPERATIONS = (*KERNELS, POOL)
INPUT, OUTPUT, ZEROS = "input", "output", "zeros"
MAX_VERTICES = 7
MAX_EDGES = 9
EDGES = tuple(itertools.combinations(range(MAX_VERTICES), 2))
MAX_TEXT = 10_000  # characters; the longest cell has about 300

Cell = tuple[tuple[str, tuple[int, ...]], ...]  # vertices in topological order: (label, the vertices that it reads)


class NasBench101(SearchSpace):
    name: ClassVar[str] = "nasbench101"
    data_sets: ClassVar[tuple[str, ...]] = ("cifar10", "fashion_mnist", "digits")

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        operations = [choose(_op(vertex), OPERATIONS) for vertex in range(1, MAX_VERTICES - 1)]
        cell = resolve(operations, [edge for edge in EDGES if choose(_edge(*edge), (False, True))])
        g = Builder(scale.input_shape)
        channels = scale.width
        with g.scope("stem"):
            x = _conv(g, g.input, channels, 3)
        for i in range(scale.n_cells):
            if is_reduction(i, scale.n_cells, scale.n_reductions):
                channels *= 2
                x = g.op("max_pool", x, kernel=2, stride=2, name=f"cells.{i}.reduction")
            with g.scope(f"cells.{i}"):
                x = _add_cell(g, cell, x, channels)
        with g.scope("head"):
            logits = g.linear(g.op("global_average_pool", x, name="pool"), scale.n_classes)
        return g.finish(logits, structure={"cell": [[label, list(inputs)] for label, inputs in cell]})

    def scoring_scale(self, input_shape: Shape, n_classes: int) -> Scale:
        channels, *size = input_shape
        side = min(16, *size)
        return Scale((channels, side, side), n_classes, width=16, n_cells=3, n_reductions=2)

    def full_scale(self, input_shape: Shape, n_classes: int) -> Scale:
        return Scale(input_shape, n_classes, width=128, n_cells=9, n_reductions=2)

    def parse(self, text: str) -> dict[str, Choice]:
        matrix, labels = _read(text)
        edges = [(i, j) for i, row in enumerate(matrix) for j, entry in enumerate(row) if entry]
        if not _on_path(edges, len(labels) - 1):
            raise _refused("A nasbench101 cell has a path from input to output", text)
        n_edges = len(_pruned(edges, len(labels) - 1))
        if n_edges > MAX_EDGES:
            raise _refused(f"A nasbench101 cell has at most {MAX_EDGES} edges on paths from input to output", n_edges)
        # a smaller cell leaves the last interior vertices alone
        last = len(labels) - 1
        present = {(i, MAX_VERTICES - 1 if j == last else j) for i, j in edges}
        interior = [*labels[1:-1], *OPERATIONS[:1] * (MAX_VERTICES - len(labels))]
        decisions: dict[str, Choice] = {_op(vertex): label for vertex, label in enumerate(interior, 1)}
        return {**decisions, **{_edge(*edge): edge in present for edge in EDGES}}

    def native(self, decisions: Mapping[str, Choice]) -> str:
        """The cell that is built, pruned and in canonical order.

        The benchmark has no cell without a path from input to output; such a one is written without edges, and
        ``parse`` refuses it.
        """
        operations = [str(decisions[_op(vertex)]) for vertex in range(1, MAX_VERTICES - 1)]
        cell = resolve(operations, [edge for edge in EDGES if decisions[_edge(*edge)]])
        n = len(cell)
        connected = cell[-1][0] != ZEROS
        matrix = [[int(connected and i in cell[j][1]) for j in range(n)] for i in range(n)]
        return json.dumps({"matrix": matrix, "ops": [INPUT, *(label for label, _ in cell[1:-1]), OUTPUT]})


def _op(vertex: int) -> str:
    return f"op{vertex}"


def _edge(source: int, vertex: int) -> str:
    return f"edge{source}-{vertex}"


# --- the cell of decisions -----------------------------------------------------------------------------------------


def resolve(operations: Sequence[str], edges: Sequence[tuple[int, int]]) -> Cell:
    """The pruned cell in canonical order: isomorphic cells become equal.

    While more than nine edges are on paths, the one goes without which most of them stay (of equals, the last by source
    and vertex). Without a path the cell is zeros.

    Args:
        operations: of the interior vertices.
        edges: (source, vertex) of the whole cell, the output being vertex ``len(operations) + 1``.
    """
    output = len(operations) + 1
    kept = _pruned(edges, output)
    while len(kept) > MAX_EDGES:
        kept = max((_pruned(kept[:k] + kept[k + 1 :], output) for k in reversed(range(len(kept)))), key=len)
    if not kept:
        return ((INPUT, ()), (ZEROS, (0,)))
    vertices = sorted({vertex for edge in kept for vertex in edge})
    number = {vertex: i for i, vertex in enumerate(vertices)}
    labels = [INPUT, *(operations[vertex - 1] for vertex in vertices[1:-1]), OUTPUT]
    inputs = [[number[i] for i, j in kept if j == vertex] for vertex in vertices]
    order = canonical_order(labels, inputs, [True] * len(labels), len(labels) - 1)
    place = {old: new for new, old in enumerate(order)}
    return tuple((labels[i], tuple(sorted(place[j] for j in inputs[i]))) for i in order)


def _on_path(edges: Sequence[tuple[int, int]], output: int) -> set[int]:
    """The vertices on a path from vertex 0 to the output."""
    reached, needed = {0}, {output}
    for i, j in sorted(edges):
        if i in reached:
            reached.add(j)
    for i, j in sorted(edges, reverse=True):
        if j in needed:
            needed.add(i)
    return reached & needed if output in reached else set()


def _pruned(edges: Sequence[tuple[int, int]], output: int) -> list[tuple[int, int]]:
    kept = _on_path(edges, output)
    return sorted(edge for edge in edges if kept.issuperset(edge))


# --- its network ---------------------------------------------------------------------------------------------------


def _conv(g: Builder, x: str, channels: int, kernel: int) -> str:
    return g.relu(g.batch_norm(g.conv(x, channels, kernel=kernel)))


def widths(cell: Cell, channels: int) -> list[int]:
    """Channels of the interior vertices (0 for input and output).

    Those that the output concatenates share its channels, the first with one more where they do not divide; any other
    has those of its widest reader.
    """
    output = len(cell) - 1
    result = [0] * len(cell)
    ends = [vertex for vertex in cell[output][1] if vertex]
    for k, vertex in enumerate(ends):
        result[vertex] = channels // len(ends) + (k < channels % len(ends))
    for vertex in range(output - 1, 0, -1):
        if vertex not in ends:
            result[vertex] = max(result[j] for j in range(vertex + 1, output) if vertex in cell[j][1])
    return result


def _parts(cell: Cell, width: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Of each vertex, the ranges of channels that it is built in: two where a reader wants the first alone."""
    narrow = min(width[1:-1], default=0)
    parts = [[(0, n)] for n in width]
    for vertex in range(len(cell) - 2, 0, -1):
        readers = [j for j in range(vertex + 1, len(cell) - 1) if vertex in cell[j][1]]
        # a pooling in two parts pools what it reads part by part
        cut = any(width[j] == narrow or (cell[j][0] == POOL and len(parts[j]) > 1) for j in readers)
        if width[vertex] > narrow and cut:
            parts[vertex] = [(0, narrow), (narrow, width[vertex])]
    return parts


def _add_cell(g: Builder, cell: Cell, x: str, channels: int) -> str:
    channels = max(channels, len(cell[-1][1]))  # at least one for each vertex that the output concatenates
    if cell[-1][0] == ZEROS:
        return g.op("zeros", _conv(g, x, channels, 1))
    width = widths(cell, channels)
    values: list[list[str]] = [[] for _ in cell]  # of each interior vertex: its parts

    def total(sources: Sequence[int], low: int, high: int) -> str:
        """The sum of these channels of what a vertex reads; the cell's input is projected to as many."""
        terms = [_channels(g, values[i], low, high) if i else _conv(g, x, high - low, 1) for i in sources]
        return _joined(g, "add", terms)

    for vertex, parts in enumerate(_parts(cell, width)[1:-1], 1):
        label, sources = cell[vertex]
        with g.scope(f"vertex{vertex}"):
            if label == POOL:
                sums = [total(sources, *part) for part in parts]
                values[vertex] = [g.op("max_pool", y, kernel=3, padding=1) for y in sums]
            else:
                y = total(sources, 0, width[vertex])
                values[vertex] = [_conv(g, y, high - low, KERNELS[label]) for low, high in parts]
    with g.scope("output"):
        ends = [value for i in cell[-1][1] for value in values[i]]
        joined = [_joined(g, "concat", ends)] if ends else []
        projected = [_conv(g, x, channels, 1)] if 0 in cell[-1][1] else []
        return _joined(g, "add", joined + projected)


def _channels(g: Builder, parts: Sequence[str], low: int, high: int) -> str:
    starts = itertools.accumulate([g.shape(part)[0] for part in parts], initial=0)
    return _joined(g, "concat", [part for part, start in zip(parts, starts, strict=False) if low <= start < high])


def _joined(g: Builder, operation: str, terms: Sequence[str]) -> str:
    return terms[0] if len(terms) == 1 else g.op(operation, *terms)


# --- reading -------------------------------------------------------------------------------------------------------


def _refused(rule: str, value: object) -> SpaceError:
    return SpaceError(
        rule,
        value=value[:200] if isinstance(value, str) else value,
        remedy='For example {"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", "maxpool3x3", "output"]}.',
    )


def _read(text: str) -> tuple[list[list[int]], list[str]]:
    """Matrix and operations of a well-formed cell; whether it is connected is not looked at."""
    try:
        if len(text) > MAX_TEXT or text != text.strip():
            raise ValueError("no cell")
        items = json.loads(text, object_pairs_hook=list)
        given = dict(items) if text.startswith("{") else {}
    except (ValueError, TypeError, RecursionError):
        items, given = [], {}
    if sorted(given) != ["matrix", "ops"] or len(items) > len(given):
        raise _refused('A nasbench101 cell is one JSON object with "matrix" and "ops"', text)
    matrix, labels = given["matrix"], given["ops"]
    if not isinstance(labels, list) or not 2 <= len(labels) <= MAX_VERTICES:
        raise _refused(f"A nasbench101 cell has 2 to {MAX_VERTICES} vertices, an operation for each", labels)
    if labels[0] != INPUT or labels[-1] != OUTPUT:
        raise _refused(f"The first vertex is {INPUT!r}, the last {OUTPUT!r}", labels)
    for label in labels[1:-1]:
        if label not in OPERATIONS:
            raise _refused(f"An operation of nasbench101 is one of {', '.join(OPERATIONS)}", label)
    n = len(labels)
    if not isinstance(matrix, list) or [len(row) if isinstance(row, list) else -1 for row in matrix] != [n] * n:
        raise _refused(f"The matrix has {n} rows and columns, one for each operation", matrix)
    for i, row in enumerate(matrix):
        for j, entry in enumerate(row):
            if type(entry) is not int or entry not in (0, 1):
                raise _refused("Entries of the matrix are 0 and 1", entry)
            if entry and j <= i:
                raise _refused("The matrix is upper triangular: edges go to later vertices", [i, j])
    return matrix, labels
