"""Pictures of cells, as matplotlib figures: boxes for nodes, and each edge with its operation.

Data coordinates are inches, so that boxes fit their text at any number of nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.layout import Layout, lay_out, longest_path_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cells_of", "draw_cells"]

Edges = list[list[tuple[str, int]]]  # for each node of a cell its (operation, source)

# Okabe and Ito (2008): told apart with any common colour blindness
CELL_COLOURS = {
    "separable": "#0072B2",
    "dilated": "#007A5A",
    "convolution": "#C44E00",
    "pooling": "#A8528A",
    "skip": "#5F6B76",
    "other": "#8A6D00",
}
GREY = "#6B7680"
N_INPUTS = 2  # sources 0 and 1 of a cell are its inputs


def cells_of(structure: Any) -> dict[str, Edges]:
    """The cells in an architecture's structure: values of the form ``[[[operation, source], ...], ...]``, by name.

    Where there are none, those of its entry ``cells`` (the space ``deepnets`` has them there).
    """
    if not isinstance(structure, Mapping):
        return {}
    cells = {}
    for name, value in structure.items():
        if isinstance(value, (list, tuple)) and value and all(map(_is_node, value)):
            edges = [[(str(op), int(source)) for op, source in node] for node in value]
            if all(0 <= source < N_INPUTS + k for k, node in enumerate(edges) for _, source in node):
                cells[str(name)] = edges
    return cells or cells_of(structure.get("cells"))


def _is_node(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(
            isinstance(edge, (list, tuple)) and len(edge) == 2 and isinstance(edge[0], str) and isinstance(edge[1], int)
            for edge in value
        )
    )


def cell_family(operation: str) -> str:
    """The family by which an operation on an edge of a cell is coloured."""
    for sign, family in (("sep", "separable"), ("dil", "dilated"), ("pool", "pooling"), ("conv", "convolution")):
        if sign in operation:
            return family
    return "skip" if "skip" in operation or operation == "identity" else "other"


LABEL_COLUMN, NODE_COLUMN = 1.8, 1.0  # inches along the flow
LABEL_HALF, PORT = 0.44, 0.09  # inches: half a label's length, the distance between arrow heads at one box
ROW, BOX, PASSING, GAP = 0.24, 0.34, 0.06, 0.12  # inches across it: a label, a box, a passing edge, between them
MARGIN, TITLE, LEGEND = 0.25, 0.42, 0.45


def draw_cells(architecture: Architecture) -> Figure:
    """One panel a cell, from its inputs on the left to its output on the right; each edge bears its operation.

    Raises:
        ArchitectureError: where the architecture's structure holds no cells.
    """
    cells = cells_of(architecture.structure)
    if not cells:
        raise ArchitectureError(
            "Only an architecture whose structure holds cells is drawn by cells",
            value=architecture.structure,
            remedy="Use draw_graph.",
        )
    figure, legend = draw_panels({f"{name} cell": _CellPlan(edges) for name, edges in cells.items()})
    _cell_legend(figure, cells, legend)
    return figure


class Plan(Protocol):
    """A cell that knows where its parts go; ``length`` along the flow, in inches."""

    layout: Layout
    length: float

    def draw(self, axes: Axes) -> None: ...


def draw_panels(plans: Mapping[str, Plan], least: float = 0.0) -> tuple[Figure, float]:
    """One panel a plan below its heading, and the share of the figure's height that is left for a legend.

    Args:
        least: width of the figure without its margins, in inches.
    """
    from matplotlib.figure import Figure

    width = max(*(plan.length for plan in plans.values()), least) + 2 * MARGIN
    heights = [plan.layout.width + 2 * MARGIN + TITLE for plan in plans.values()]
    total = sum(heights) + LEGEND
    figure = Figure(figsize=(width, total))
    top = total
    for (heading, plan), height in zip(plans.items(), heights, strict=True):
        top -= height
        axes = figure.add_axes((0, top / total, 1, height / total))
        left = (width - plan.length) / 2
        axes.set(xlim=(-left, width - left), ylim=(plan.layout.width + MARGIN, -MARGIN - TITLE))
        axes.axis("off")
        axes.text(MARGIN - left, -TITLE, heading, fontsize=13, fontweight="bold", va="center")
        plan.draw(axes)
    return figure, LEGEND / total


class _CellPlan:
    """Vertices and way points of one cell, and where they go. Inches."""

    def __init__(self, nodes: Edges) -> None:
        n = len(nodes)
        inputs: dict[Hashable, Sequence[Hashable]] = dict.fromkeys(range(N_INPUTS), ())
        inputs.update({N_INPUTS + k: [source for _, source in edges] for k, edges in enumerate(nodes)})
        inputs["output"] = range(N_INPUTS, N_INPUTS + n)
        # every second layer holds the labels of the edges that end in the next one
        self.layer = {vertex: 2 * layer for vertex, layer in longest_path_layers(inputs).items()}
        self.used = {source for edges in nodes for _, source in edges}
        self.columns: list[list[Hashable]] = [[] for _ in range(self.layer["output"] + 1)]
        self.sizes: dict[Hashable, float] = {}
        for vertex, layer in self.layer.items():
            self._add(vertex, layer, BOX)
        links: list[tuple[Hashable, Hashable]] = []
        self.chains: list[tuple[str | None, list[Hashable]]] = []
        ends = [(op, source, N_INPUTS + k) for k, edges in enumerate(nodes) for op, source in edges]
        for number, (op, source, target) in enumerate([*ends, *((None, N_INPUTS + k, "output") for k in range(n))]):
            chain: list[Hashable] = [source]
            for layer in range(self.layer[source] + 1, self.layer[target]):
                labelled = op is not None and layer == self.layer[target] - 1
                chain.append((number, layer))
                self._add((number, layer), layer, ROW if labelled else PASSING)
            chain.append(target)
            links.extend(itertools.pairwise(chain))
            self.chains.append((op, chain))
        self.layout: Layout = lay_out(self.columns, links, self.sizes, gap=GAP, n_starts=16)
        self.length = (LABEL_COLUMN + NODE_COLUMN) * (len(self.columns) // 2) + NODE_COLUMN

    def _add(self, vertex: Hashable, layer: int, size: float) -> None:
        self.columns[layer].append(vertex)
        self.sizes[vertex] = size

    def _point(self, vertex: Hashable, layer: int) -> tuple[float, float]:
        along = NODE_COLUMN / 2 + layer * (LABEL_COLUMN + NODE_COLUMN) / 2
        return along, self.layout.across[vertex]

    def draw(self, axes: Axes) -> None:
        for op, chain in self.chains:
            first = self.layer[chain[0]]
            points = [self._point(vertex, first + i) for i, vertex in enumerate(chain)]
            label = points[-2]
            points[0] = (points[0][0] + _half(chain[0]), points[0][1])
            points[-1] = (points[-1][0] - _half(chain[-1]), points[-1][1] + self._port(chain))
            if op is not None:  # straight behind its label, so that all the bending is seen
                points[-2:-1] = [(label[0] - LABEL_HALF, label[1]), (label[0] + LABEL_HALF, label[1])]
            colour = GREY if op is None else CELL_COLOURS[cell_family(op)]
            draw_curve(axes, points, colour, dashed=op is not None and cell_family(op) == "skip", thin=op is None)
            if op is not None:
                box = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none"}
                axes.text(
                    *label, op, color=colour, fontsize=10, ha="center", va="center", bbox=box, gid="edge", zorder=3
                )
        for vertex, layer in self.layer.items():
            self._draw_box(axes, vertex, *self._point(vertex, layer))

    def _port(self, chain: list[Hashable]) -> float:
        """How far off the middle of the target's side this edge's arrow head goes, so that none hides another."""
        rivals = [other for _, other in self.chains if other[-1] == chain[-1]]
        rivals.sort(key=lambda other: self.layout.across[other[-2]])
        return PORT * (next(i for i, other in enumerate(rivals) if other is chain) - (len(rivals) - 1) / 2)

    def _draw_box(self, axes: Axes, vertex: Hashable, x: float, y: float) -> None:
        text = {0: "cell k−2", 1: "cell k−1", "output": "concat"}.get(vertex, f"sum {vertex}")
        is_end = vertex in (0, 1, "output")
        unused = vertex in (0, 1) and vertex not in self.used
        style = {
            "boxstyle": "round,pad=0.35",
            "facecolor": "#E9EEF2" if is_end else "#FFFFFF",
            "edgecolor": GREY if unused else "#222222",
            "linestyle": ":" if unused else "-",
        }
        colour = GREY if unused else "#111111"
        text = f"{text}\n(unused)" if unused else text
        axes.text(x, y, text, fontsize=10, ha="center", va="center", color=colour, bbox=style, gid="node", zorder=4)


def _half(vertex: Hashable) -> float:
    """Half the length of a vertex's box, in inches; it follows from its text."""
    return 0.42 if vertex in (0, 1) else 0.37 if vertex == "output" else 0.32


def draw_curve(
    axes: Axes, points: list[tuple[float, float]], colour: str, *, dashed: bool = False, thin: bool = False
) -> None:
    """A smooth line that is horizontal at every way point, with an arrow head at the target."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    vertices, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        half = (x1 - x0) / 2
        vertices += [(x0 + half, y0), (x1 - half, y1), (x1, y1)]
        codes += [Path.CURVE4] * 3
    line = FancyArrowPatch(
        path=Path(vertices, codes),
        arrowstyle="-|>",
        mutation_scale=9,
        color=colour,
        fill=False,
        linewidth=0.9 if thin else 1.6,
        linestyle="--" if dashed else "-",
        zorder=1 if thin else 2,
    )
    axes.add_patch(line)


def _cell_legend(figure: Figure, cells: Mapping[str, Edges], height: float) -> None:
    from matplotlib.lines import Line2D

    present = {cell_family(op) for edges in cells.values() for node in edges for op, _ in node}
    handles = [
        Line2D([], [], color=colour, linewidth=2, linestyle="--" if family == "skip" else "-", label=family)
        for family, colour in CELL_COLOURS.items()
        if family in present
    ]
    figure.legend(handles=handles, loc="center", bbox_to_anchor=(0.5, height / 2), ncols=6, frameon=False, fontsize=9.5)
