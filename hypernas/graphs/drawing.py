"""Pictures of architectures, as matplotlib figures: their cells where they have some, or the whole graph."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from hypernas.graphs.architecture import Architecture, Node
from hypernas.graphs.cell_drawing import cells_of, draw_cells
from hypernas.graphs.dag_drawing import dags_of, draw_dags
from hypernas.graphs.layout import lay_out, longest_path_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cells_of", "dags_of", "draw", "draw_cells", "draw_dags", "draw_graph"]

GRAPH_FAMILIES = {
    "weights": ("conv", "conv_transpose", "linear"),
    "attention": ("attention", "softmax"),
    "normalisation": ("batch_norm", "layer_norm", "group_norm", "rms_norm"),
    "activation": (
        *("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "gelu", "gelu_tanh", "silu", "mish", "softplus"),
        *("sigmoid", "tanh", "hardsigmoid", "hardswish"),
    ),
    "pooling": ("max_pool", "average_pool", "global_average_pool", "adaptive_average_pool", "adaptive_max_pool"),
    "joining": ("add", "multiply", "concat"),
    "layout": ("reshape", "permute", "flatten", "identity"),
}
GRAPH_COLOURS = {
    "weights": "#8CC4E8",
    "normalisation": "#DDE3E8",
    "activation": "#F6E27A",
    "pooling": "#E3B3D0",
    "joining": "#8FD6BE",
    "attention": "#F4B68A",
    "layout": "#F4F4F4",
    "other": "#FFFFFF",
}
GREY = "#6B7680"
FOLLOWING = ("normalisation", "activation", "layout")
MOST = 3  # primitives in a fused box; more would make all boxes wide
LETTER = 0.052  # inches, of a box's text
SHORT = {"batch_norm": "bn", "layer_norm": "ln", "group_norm": "gn"}  # in fused boxes
SLOT, TALL, LEVEL = 1.25, 0.30, 0.52  # inches: a node's box, its height, from one layer to the next
PASSING, MARGIN, TITLE = 0.06, 0.25, 0.42  # inches: a passing edge, around the graph, for the legend
LONGEST = 300.0  # inches; at 100 dots each the 2^16 pixels of the renderer are not reached


def draw(architecture: Architecture) -> Figure:
    """The cells where the architecture's structure holds some, else the whole graph, fused."""
    if cells_of(architecture.structure):
        return draw_cells(architecture)
    return draw_dags(architecture) if dags_of(architecture.structure) else draw_graph(architecture, fused=True)


def graph_family(op: str) -> str:
    """The family by which a primitive is coloured."""
    return next((family for family, ops in GRAPH_FAMILIES.items() if op in ops), "other")


def draw_graph(architecture: Architecture, *, fused: bool = False) -> Figure:
    """All primitives from top to bottom, with their output shapes; parameters are not drawn.

    Args:
        fused: norms, activations and reshapes share a box with what they follow, where nobody else reads that.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    boxes = _boxes(architecture, fused=fused)
    texts = {name: _text(architecture, box) for name, box in boxes.items()}
    slot = max(SLOT, 0.2 + LETTER * max(len(line) for text in texts.values() for line in text.split("\n")))
    last = {box[-1].name: name for name, box in boxes.items()}
    inputs: dict[Hashable, list[Hashable]] = {
        name: [last[source] for source in box[0].inputs if source in last] for name, box in boxes.items()
    }
    layer = longest_path_layers(inputs)
    layers: list[list[Hashable]] = [[] for _ in range(max(layer.values()) + 1)]
    sizes: dict[Hashable, float] = {}
    chains = []
    for name in inputs:
        layers[layer[name]].append(name)
        sizes[name] = slot
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
    for name, box in boxes.items():
        _draw_box(axes, texts[name], graph_family(box[0].op), layout.across[name], layer[name] * LEVEL, slot)
    _graph_legend(axes, {graph_family(box[0].op) for box in boxes.values()}, -left + MARGIN)
    return figure


def _boxes(architecture: Architecture, *, fused: bool) -> dict[str, list[Node]]:
    """The primitives of each box, in a chain, by the name of the first; in topological order.

    A fused box is closed before ``MOST`` would be passed.
    """
    nodes = {node.name: node for node in architecture.nodes if node.op != "parameter"}
    readers: dict[str, int] = {}
    for node in nodes.values():
        for source in node.inputs:
            readers[source] = readers.get(source, 0) + 1
    boxes: dict[str, list[Node]] = {}
    box_of: dict[str, str] = {}
    for name, node in nodes.items():
        sources = [source for source in node.inputs if source in nodes]
        home = box_of[sources[0]] if len(sources) == 1 else None
        joins = (
            fused
            and home is not None
            and graph_family(node.op) in FOLLOWING
            and boxes[home][-1].name == sources[0]
            and readers[sources[0]] == 1
            and boxes[home][0].op != "input"
            and len(boxes[home]) < MOST
        )
        box_of[name] = home if joins and home is not None else name
        boxes.setdefault(box_of[name], []).append(node)
    return boxes


def _draw_box(axes: Axes, text: str, family: str, x: float, y: float, slot: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    patch = FancyBboxPatch(
        (x - slot / 2 + 0.04, y - TALL / 2),
        slot - 0.08,
        TALL,
        boxstyle="round,pad=0,rounding_size=0.05",
        facecolor=GRAPH_COLOURS[family],
        edgecolor="#333333",
        linewidth=0.7,
        zorder=2,
    )
    axes.add_patch(patch)
    axes.text(x, y, text, fontsize=6.5, ha="center", va="center_baseline", linespacing=1.15, gid="node", zorder=3)


def _text(architecture: Architecture, box: Sequence[Node]) -> str:
    """Its primitives, and the shape of what comes out of the last."""
    shape = "×".join(map(str, architecture.shapes[box[-1].name]))
    words = [_primitive_text(architecture, node) for node in box]
    line = ", ".join(SHORT.get(word, word) for word in words) if len(words) > 1 else words[0]
    return f"{line}\n{shape}"


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
        ncols=8,
        frameon=False,
        fontsize=7,
        handlelength=1.2,
        columnspacing=1.0,
    )
