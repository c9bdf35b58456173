"""``nasbench201``: the 15,625 cells of NAS-Bench-201 (Dong and Yang 2020), in their native strings.

A cell has four nodes and an operation on each of its six edges; a node is the sum of its edges. Three stages of cells
(16, 32 and 64 channels at full size, five cells each) are joined by residual blocks of stride 2. ``none`` gives zeros:
a cell whose paths all have one computes nothing, and the network is a constant.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from hypernas.errors import SpaceError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.canonical import canonical_order
from hypernas.graphs.primitives import Shape
from hypernas.spaces.space import Choice, Chooser, Scale, SearchSpace

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = tuple((source, node) for node in (1, 2, 3) for source in range(node))
N_STAGES = 3
NATIVE = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")

Cell = tuple[tuple[str, tuple[int, ...]], ...]  # values: (operation, the values that it reads)


class NasBench201(SearchSpace):
    name: ClassVar[str] = "nasbench201"
    data_sets: ClassVar[tuple[str, ...]] = ("cifar10", "fashion_mnist", "digits")

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        cell = simplify({edge: choose(_name(*edge), OPERATIONS) for edge in EDGES})
        g = Builder(scale.input_shape)
        with g.scope("stem"):
            x = g.batch_norm(g.conv(g.input, scale.width, kernel=3))
        for stage in range(N_STAGES):
            channels = scale.width * 2**stage
            if stage:
                with g.scope(f"reductions.{stage}"):
                    x = _residual_block(g, x, channels)
            for i in range(max(1, scale.n_cells // N_STAGES)):
                with g.scope(f"stages.{stage}.cells.{i}"):
                    x = _add_cell(g, cell, x, channels)
        with g.scope("head"):
            x = g.relu(g.batch_norm(x))
            logits = g.linear(g.op("global_average_pool", x, name="pool"), scale.n_classes)
        return g.finish(logits, structure={"cell": [[label, list(inputs)] for label, inputs in cell]})

    def scoring_scale(self, input_shape: Shape, n_classes: int) -> Scale:
        channels, *size = input_shape
        side = min(16, *size)
        return Scale((channels, side, side), n_classes, width=8, n_cells=N_STAGES, n_reductions=N_STAGES - 1)

    def full_scale(self, input_shape: Shape, n_classes: int) -> Scale:
        return Scale(input_shape, n_classes, width=16, n_cells=5 * N_STAGES, n_reductions=N_STAGES - 1)

    def parse(self, text: str) -> dict[str, Choice]:
        match = NATIVE.fullmatch(text)
        unknown = sorted(set(match.groups()) - set(OPERATIONS)) if match else []
        if match is None or unknown:
            raise SpaceError(
                f"A nasbench201 cell is |op~0|+|op~0|op~1|+|op~0|op~1|op~2| with operations {', '.join(OPERATIONS)}",
                value=text[:200],
                remedy=f"Unknown: {', '.join(unknown)}." if unknown else "",
            )
        return {_name(*edge): operation for edge, operation in zip(EDGES, match.groups(), strict=True)}

    def native(self, decisions: Mapping[str, Choice]) -> str:
        nodes = [[f"{decisions[_name(i, j)]}~{i}" for i in range(j)] for j in (1, 2, 3)]
        return "+".join(f"|{'|'.join(edges)}|" for edges in nodes)

    def enumerate(self) -> Iterator[dict[str, Choice]]:
        for operations in itertools.product(OPERATIONS, repeat=len(EDGES)):
            yield {_name(*edge): operation for edge, operation in zip(EDGES, operations, strict=True)}


def _name(source: int, node: int) -> str:
    return f"node{node}.from{source}"


def simplify(operations: Mapping[tuple[int, int], str]) -> Cell:
    """The cell as a DAG of values in canonical order, without ``none``, ``skip_connect`` and dead ends.

    Value 0 is the cell's input, the last is its output. A skip hands on what its source sums, so that sums of sums
    become one sum; equal sums are one value, and so are poolings of one value, which have no weights to differ by.
    Cells that compute the same function of the same weights become equal.
    """
    values: list[tuple[str, tuple[int, ...]]] = [("input", ())]

    def value(label: str, inputs: tuple[int, ...]) -> int:
        if (label, inputs) in values and not label.startswith("nor_conv"):
            return values.index((label, inputs))
        values.append((label, inputs))
        return len(values) - 1

    sums: list[tuple[int, ...]] = [(0,)]  # of each node: the values that it sums
    for node in (1, 2, 3):
        collected: list[int] = []
        for source in range(node):
            operation = operations[source, node]
            if operation == "none" or not sums[source]:
                continue  # zeros come in
            if operation == "skip_connect":
                collected.extend(sums[source])
            else:
                collected.append(value(operation, (_sum(sums[source], value),)))
        sums.append(tuple(sorted(collected)))
    if not sums[-1]:
        return (("input", ()), ("zeros", (0,)))
    return _canonical(values, _sum(sums[-1], value))


def _sum(terms: tuple[int, ...], value: Callable[[str, tuple[int, ...]], int]) -> int:
    return terms[0] if len(terms) == 1 else value("sum", terms)


def _canonical(values: list[tuple[str, tuple[int, ...]]], output: int) -> Cell:
    needed = {output}
    for i in range(output, -1, -1):  # inputs come before their readers
        if i in needed:
            needed.update(values[i][1])
    kept = sorted(needed)
    number = {old: new for new, old in enumerate(kept)}
    labels = [values[i][0] for i in kept]
    inputs = [[number[j] for j in values[i][1]] for i in kept]
    order = canonical_order(labels, inputs, [label == "sum" for label in labels], number[output])
    place = {old: new for new, old in enumerate(order)}
    return tuple((labels[i], tuple(sorted(place[j] for j in inputs[i]))) for i in order)


def _add_cell(g: Builder, cell: Cell, x: str, channels: int) -> str:
    values = [x]
    activated: dict[str, str] = {}  # a value's ReLU is computed once
    for label, inputs in cell[1:]:
        sources = [values[i] for i in inputs]
        if label == "sum":
            values.append(g.op("add", *sources, name="sum"))
        elif label == "zeros":
            values.append(g.op("zeros", *sources))
        elif label == "avg_pool_3x3":
            values.append(g.op("average_pool", *sources, kernel=3, padding=1, name="pool"))
        else:
            kernel = 3 if label == "nor_conv_3x3" else 1
            if sources[0] not in activated:
                activated[sources[0]] = g.relu(sources[0])
            values.append(g.batch_norm(g.conv(activated[sources[0]], channels, kernel=kernel)))
    return values[-1]


def _residual_block(g: Builder, x: str, channels: int) -> str:
    """The basic block of ResNets with stride 2: the reduction between two stages."""
    y = g.batch_norm(g.conv(g.relu(x), channels, kernel=3, stride=2))
    y = g.batch_norm(g.conv(g.relu(y), channels, kernel=3))
    shortcut = g.conv(g.op("average_pool", x, kernel=2, stride=2, name="pool"), channels)
    return g.op("add", shortcut, y, name="sum")
