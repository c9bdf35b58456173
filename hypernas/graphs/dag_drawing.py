"""Pictures of cells whose operations stand at vertices (NAS-Bench-101, NAS-Bench-201): a box each, and plain edges.

Data coordinates are inches, so that boxes fit their text at any number of vertices.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.cell_drawing import CELL_COLOURS, GREY, cell_family, draw_curve, draw_panels
from hypernas.graphs.layout import Layout, lay_out, longest_path_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["dags_of", "draw_dags"]

Dag = list[tuple[str, tuple[int, ...]]]  # vertices in topological order: (operation, the vertices that it reads)

ENDS = ("input", "output")
BARE = (*ENDS, "sum", "zeros")  # no operations that were chosen
BOX, PASSING, GAP = 0.36, 0.08, 0.26  # inches across the flow: a box, a passing edge, between them
LETTER, PADDING, REACH = 0.088, 0.28, 0.75  # inches along it: a letter, around a text, from box to box
PORT = 0.07  # inches between arrow heads at one box


def dags_of(structure: Any) -> dict[str, Dag]:
    """The cells in a structure with operations at vertices, by name: ``[[operation, [source, ...]], ...]``."""
    if not isinstance(structure, Mapping):
        return {}
    found = {}
    for name, value in structure.items():
        if isinstance(value, (list, tuple)) and value and all(map(_is_vertex, value)):
            dag = [(str(label), tuple(sources)) for label, sources in value]
            if all(0 <= source < i for i, (_, sources) in enumerate(dag) for source in sources):
                found[str(name)] = dag
    return found


def _is_vertex(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], (list, tuple))
        and all(type(source) is int for source in value[1])
    )


def draw_dags(architecture: Architecture) -> Figure:
    """One panel a cell, from its input on the left to its output on the right; boxes by the family of the operation.

    Raises:
        ArchitectureError: where the architecture's structure holds no such cells.
    """
    dags = dags_of(architecture.structure)
    if not dags:
        raise ArchitectureError(
            "Only an architecture whose structure holds cells is drawn by cells",
            value=architecture.structure,
            remedy="Use draw_graph.",
        )
    plans = {name if name.endswith("cell") else f"{name} cell": _DagPlan(dag) for name, dag in dags.items()}
    figure, legend = draw_panels(plans, least=4.0)
    _legend(figure, [label for dag in dags.values() for label, _ in dag], legend)
    return figure


class _DagPlan:
    """Vertices and way points of one cell, and where they go. Inches."""

    def __init__(self, dag: Dag) -> None:
        if dag[-1][0] != "output":
            dag = [*dag, ("output", (len(dag) - 1,))]
        self.texts = [label for label, _ in dag]
        inputs: dict[Hashable, Sequence[Hashable]] = {i: sources for i, (_, sources) in enumerate(dag)}
        self.layer = longest_path_layers(inputs)
        columns: list[list[Hashable]] = [[] for _ in range(max(self.layer.values()) + 1)]
        sizes: dict[Hashable, float] = {}
        for vertex, layer in self.layer.items():
            columns[layer].append(vertex)
            sizes[vertex] = BOX
        self.chains: list[list[Hashable]] = []
        for target, sources in inputs.items():
            for source in sources:
                way_points: list[Hashable] = [
                    (source, target, layer) for layer in range(self.layer[source] + 1, self.layer[target])
                ]
                for point, layer in zip(way_points, itertools.count(self.layer[source] + 1), strict=False):
                    columns[layer].append(point)
                    sizes[point] = PASSING
                self.chains.append([source, *way_points, target])
        links = [link for chain in self.chains for link in itertools.pairwise(chain)]
        self.layout: Layout = lay_out(columns, links, sizes, gap=GAP, n_starts=16)
        self.halves = [max(_half(self.texts[v]) for v in column if isinstance(v, int)) for column in columns]
        self.along = [self.halves[0]]
        for before, after in itertools.pairwise(self.halves):
            self.along.append(self.along[-1] + before + REACH + after)
        self.length = self.along[-1] + self.halves[-1]

    def draw(self, axes: Axes) -> None:
        for chain in self.chains:
            source, target = chain[0], chain[-1]
            assert isinstance(source, int)
            assert isinstance(target, int)
            first = self.layer[source]
            points = [(self.along[first], self.layout.across[source])]
            points[0] = (points[0][0] + _half(self.texts[source]), points[0][1])
            for i, vertex in enumerate(chain[1:-1], start=first + 1):  # level past the boxes of each layer
                y = self.layout.across[vertex]
                points += [(self.along[i] - self.halves[i], y), (self.along[i] + self.halves[i], y)]
            end = self.along[self.layer[target]] - _half(self.texts[target])
            points.append((end, self.layout.across[target] + self._port(chain)))
            draw_curve(axes, points, GREY, thin=True)
        for i, text in enumerate(self.texts):
            _box(axes, text, self.along[self.layer[i]], self.layout.across[i])

    def _port(self, chain: list[Hashable]) -> float:
        """How far off the middle of the target's side this edge's arrow head goes, so that none hides another."""
        rivals = [other for other in self.chains if other[-1] == chain[-1]]
        rivals.sort(key=lambda other: self.layout.across[other[-2]])
        return PORT * (next(i for i, other in enumerate(rivals) if other is chain) - (len(rivals) - 1) / 2)


def _half(text: str) -> float:
    """Half the length of a vertex's box, in inches."""
    return (LETTER * len(text) + PADDING) / 2


def _box(axes: Axes, text: str, x: float, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    colour = CELL_COLOURS[cell_family(text)]
    chosen = text not in BARE
    box = FancyBboxPatch(
        (x - _half(text), y - BOX / 2),
        2 * _half(text),
        BOX,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor=colour if chosen else "#E9EEF2" if text in ENDS else "#FFFFFF",
        edgecolor=colour if chosen else "#222222",
        linewidth=1.1,
        zorder=3,
    )
    axes.add_patch(box)
    ink = "white" if chosen else "#111111"
    axes.text(x, y, text, fontsize=10, ha="center", va="center_baseline", color=ink, gid="node", zorder=4)


def _legend(figure: Figure, operations: Sequence[str], height: float) -> None:
    from matplotlib.patches import Patch

    present = {cell_family(operation) for operation in operations if operation not in BARE}
    handles = [Patch(color=colour, label=family) for family, colour in CELL_COLOURS.items() if family in present]
    if handles:
        place = (0.5, height / 2)
        figure.legend(handles=handles, loc="center", bbox_to_anchor=place, ncols=6, frameon=False, fontsize=9.5)
