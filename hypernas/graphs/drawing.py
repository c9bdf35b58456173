"""Pictures of architectures, as matplotlib figures: cells with their operations, or the whole graph.

Data coordinates are inches (cells) so that boxes fit their text at any number of nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Architecture, Node
from hypernas.graphs.layout import Layout, lay_out, longest_path_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cells_of", "draw", "draw_cells", "draw_graph"]

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
GRAPH_FAMILIES = {
    "weights": ("conv", "linear"),
    "normalisation": ("batch_norm", "layer_norm", "group_norm"),
    "activation": ("relu", "gelu", "silu", "sigmoid"),
    "pooling": ("max_pool", "average_pool", "global_average_pool"),
    "joining": ("add", "multiply", "concat"),
}
GRAPH_COLOURS = {
    "weights": "#8CC4E8",
    "normalisation": "#DDE3E8",
    "activation": "#F6E27A",
    "pooling": "#E3B3D0",
    "joining": "#8FD6BE",
    "other": "#FFFFFF",
}
GREY = "#6B7680"
N_INPUTS = 2  # sources 0 and 1 of a cell are its inputs


def draw(architecture: Architecture) -> Figure:
    """The cells where the architecture's structure holds some, else the whole graph."""
    return draw_cells(architecture) if cells_of(architecture.structure) else draw_graph(architecture)


def cells_of(structure: Any) -> dict[str, Edges]:
    """The cells in an architecture's structure: values of the form ``[[[operation, source], ...], ...]``, by name."""
    if not isinstance(structure, Mapping):
        return {}
    cells = {}
    for name, value in structure.items():
        if isinstance(value, (list, tuple)) and value and all(map(_is_node, value)):
            edges = [[(str(op), int(source)) for op, source in node] for node in value]
            if all(0 <= source < N_INPUTS + k for k, node in enumerate(edges) for _, source in node):
                cells[str(name)] = edges
    return cells


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


def graph_family(op: str) -> str:
    """The family by which a primitive is coloured."""
    return next((family for family, ops in GRAPH_FAMILIES.items() if op in ops), "other")


# --- cells ---------------------------------------------------------------------------------------------------------

LABEL_COLUMN, NODE_COLUMN = 1.8, 1.0  # inches along the flow
LABEL_HALF, PORT = 0.44, 0.09  # inches: half a label's length, the distance between arrow heads at one box
ROW, BOX, PASSING, GAP = 0.24, 0.34, 0.06, 0.12  # inches across it: a label, a box, a passing edge, between them
MARGIN, TITLE, LEGEND = 0.25, 0.42, 0.45


def draw_cells(architecture: Architecture) -> Figure:
    """One panel a cell, from its inputs on the left to its output on the right; each edge bears its operation.

    Raises:
        ArchitectureError: where the architecture's structure holds no cells.
    """
    from matplotlib.figure import Figure

    cells = cells_of(architecture.structure)
    if not cells:
        raise ArchitectureError(
            "Only an architecture whose structure holds cells is drawn by cells",
            value=architecture.structure,
            remedy="Use draw_graph.",
        )
    plans = {name: _CellPlan(edges) for name, edges in cells.items()}
    width = max(plan.length for plan in plans.values()) + 2 * MARGIN
    heights = [plan.layout.width + 2 * MARGIN + TITLE for plan in plans.values()]
    total = sum(heights) + LEGEND
    figure = Figure(figsize=(width, total))
    top = total
    for (name, plan), height in zip(plans.items(), heights, strict=True):
        top -= height
        axes = figure.add_axes((0, top / total, 1, height / total))
        left = (width - plan.length) / 2
        axes.set(xlim=(-left, width - left), ylim=(plan.layout.width + MARGIN, -MARGIN - TITLE))
        axes.axis("off")
        axes.text(MARGIN - left, -TITLE, f"{name} cell", fontsize=13, fontweight="bold", va="center")
        plan.draw(axes)
    _cell_legend(figure, cells, LEGEND / total)
    return figure


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
            _curve(axes, points, colour, dashed=op is not None and cell_family(op) == "skip", thin=op is None)
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


def _curve(axes: Axes, points: list[tuple[float, float]], colour: str, *, dashed: bool, thin: bool) -> None:
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


# --- whole graphs --------------------------------------------------------------------------------------------------

SLOT, TALL, LEVEL = 1.25, 0.30, 0.52  # inches: a node's box, its height, from one layer to the next
LONGEST = 300.0  # inches; at 100 dots each the 2^16 pixels of the renderer are not reached


def draw_graph(architecture: Architecture) -> Figure:
    """All primitives from top to bottom, with their output shapes; parameters are not drawn."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    nodes = {node.name: node for node in architecture.nodes if node.op != "parameter"}
    inputs: dict[Hashable, list[Hashable]] = {
        name: [source for source in node.inputs if source in nodes] for name, node in nodes.items()
    }
    layer = longest_path_layers(inputs)
    layers: list[list[Hashable]] = [[] for _ in range(max(layer.values()) + 1)]
    sizes: dict[Hashable, float] = {}
    chains = []
    for name in inputs:
        layers[layer[name]].append(name)
        sizes[name] = SLOT
    for name, sources in inputs.items():
        for source in dict.fromkeys(sources):
            middle: list[Hashable] = [(source, name, i) for i in range(layer[source] + 1, layer[name])]
            for i, way_point in enumerate(middle):
                layers[layer[source] + 1 + i].append(way_point)
                sizes[way_point] = PASSING
            chains.append([source, *middle, name])
    links = [link for chain in chains for link in itertools.pairwise(chain)]
    layout = lay_out(layers, links, sizes, gap=0.14, n_starts=1)
    width, height = max(layout.width, 6.0) + 2 * MARGIN, len(layers) * LEVEL + 2 * MARGIN + TITLE
    figure = Figure(figsize=(min(width, LONGEST), min(height, LONGEST)))
    axes = figure.add_axes((0, 0, 1, 1))
    left = (width - layout.width) / 2
    axes.set(xlim=(-left, width - left), ylim=((len(layers) - 0.5) * LEVEL + MARGIN, -LEVEL / 2 - MARGIN - TITLE))
    axes.axis("off")
    lines = []
    for chain in chains:  # upright past the boxes of each layer, so that it cuts no corner
        stops = [(layout.across[vertex], (layer[chain[0]] + i) * LEVEL) for i, vertex in enumerate(chain)]
        lines.append([(x, y + side) for x, y in stops for side in (-TALL / 2, TALL / 2)][1:-1])
    axes.add_collection(LineCollection(lines, colors=GREY, linewidths=0.9, zorder=1))
    for name, node in nodes.items():
        _draw_primitive(axes, architecture, node, layout.across[name], layer[name] * LEVEL)
    _graph_legend(axes, {graph_family(node.op) for node in nodes.values()}, -left + MARGIN)
    return figure


def _draw_primitive(axes: Axes, architecture: Architecture, node: Node, x: float, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    colour = GRAPH_COLOURS[graph_family(node.op)]
    box = FancyBboxPatch(
        (x - SLOT / 2 + 0.04, y - TALL / 2),
        SLOT - 0.08,
        TALL,
        boxstyle="round,pad=0,rounding_size=0.05",
        facecolor=colour,
        edgecolor="#333333",
        linewidth=0.7,
        zorder=2,
    )
    axes.add_patch(box)
    shape = "×".join(map(str, architecture.shapes[node.name]))
    text = f"{_primitive_text(architecture, node)}\n{shape}"
    axes.text(x, y, text, fontsize=6.5, ha="center", va="center_baseline", linespacing=1.15, gid="node", zorder=3)


def _primitive_text(architecture: Architecture, node: Node) -> str:
    """The operation with the sizes that tell one from another: kernel, stride, groups, dilation."""
    words = [node.op]
    if node.op == "conv":
        words.append("×".join(map(str, architecture.shapes[node.inputs[1]][2:])))
    elif "kernel" in node.attributes:
        kernel = node.attributes["kernel"]
        words.append(f"{kernel}×{kernel}" if isinstance(kernel, int) else "×".join(map(str, kernel)))
    for key, sign in (("stride", "s"), ("groups", "g"), ("dilation", "d")):
        value = node.attributes.get(key, 1)
        if node.op != "group_norm" and value not in (1, (1, 1), None):
            words.append(f"{sign}{value if isinstance(value, int) else max(value)}")
    return " ".join(words)


def _graph_legend(axes: Axes, present: set[str], left: float) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, edgecolor="#333333", linewidth=0.7, label=family)
        for family, colour in GRAPH_COLOURS.items()
        if family in present
    ]
    top = min(axes.get_ylim())
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left, top + 0.08),
        bbox_transform=axes.transData,
        ncols=6,
        frameon=False,
        fontsize=7,
        handlelength=1.2,
        columnspacing=1.0,
    )
