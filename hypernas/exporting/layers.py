"""Operations that are layers of ``torch.nn``: those whose parameters stand together under a name of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hypernas.exporting.tokens import Hole, Raw, Token, literal
from hypernas.graphs.architecture import Architecture, Node
from hypernas.graphs.primitives import Layout, Shape

__all__ = ["TORCH_NAMES", "Layer", "find_layers", "statistics_of"]

TORCH_NAMES = {"scale": "weight", "slope": "weight", "shift": "bias"}  # hypernas's names of what torch calls so
LEAVES = (("weight", "scale", "slope"), ("bias", "shift"))
KINDS = ("conv", "linear", "batch_norm", "layer_norm", "group_norm", "rms_norm", "conv_transpose", "prelu")


@dataclass(frozen=True)
class Layer:
    """A module of ``torch.nn``.

    Attributes:
        name: the prefix of its parameters' names.
        make: the tokens of its constructor.
        renamed: whether torch calls some of its parameters otherwise.
    """

    name: str
    make: tuple[Token, ...]
    renamed: bool


def statistics_of(node: Node) -> tuple[str, str] | None:
    """Names of a batch norm's running mean and variance, None where it keeps none (as ``networks.interpreter``)."""
    if node.op != "batch_norm":
        return None
    if len(node.inputs) == 5:
        return node.inputs[3], node.inputs[4]
    return None if node.attributes["momentum"] == 0 else (f"{node.name}.running_mean", f"{node.name}.running_var")


def find_layers(architecture: Architecture) -> dict[str, Layer]:
    """Node -> its layer, for those that can be one; nodes that share all parameters share the layer."""
    readers: dict[str, list[Node]] = defaultdict(list)
    names: dict[str, set[str]] = defaultdict(set)  # prefix -> the names below it
    for node in architecture.nodes:
        for name in dict.fromkeys(node.inputs):
            readers[name].append(node)
        stored = statistics_of(node) or ()
        for name in (*stored, *((node.name,) if node.op == "parameter" else ())):
            parts = name.split(".")
            for i in range(1, len(parts)):
                names[".".join(parts[:i])].add(name)
    found = {}
    for node in architecture.nodes:
        if node.op in KINDS and (layer := _layer(architecture, node, readers, names)) is not None:
            found[node.name] = layer
    return found


def _layer(
    architecture: Architecture, node: Node, readers: Mapping[str, Sequence[Node]], names: Mapping[str, set[str]]
) -> Layer | None:
    own = node.inputs[1:3]
    if not own or any(architecture.by_name[name].op != "parameter" for name in own):
        return None
    prefix = own[0].rpartition(".")[0]
    leaves = [name.removeprefix(f"{prefix}.") for name in own]
    statistics = statistics_of(node)
    wanted = {*own, *(statistics or ())}
    if (
        not prefix
        or any(leaf not in allowed for leaf, allowed in zip(leaves, LEAVES, strict=False))
        or names[prefix] != wanted
        or (statistics and statistics != (f"{prefix}.running_mean", f"{prefix}.running_var"))
        or len(set(own)) < len(own)
    ):
        return None
    for reader in (reader for name in own for reader in readers[name]):
        same = (reader.op, reader.attributes, reader.inputs[1:]) == (node.op, node.attributes, node.inputs[1:])
        rank = _rank(architecture.shapes[reader.inputs[0]]) == _rank(architecture.shapes[node.inputs[0]])
        if not same or not rank or reader.inputs[0] in own or statistics_of(reader) != statistics:
            return None
    make = MAKERS[node.op](node, [architecture.shapes[name] for name in node.inputs])
    return None if make is None else Layer(prefix, tuple(make), any(leaf not in ("weight", "bias") for leaf in leaves))


def _rank(shape: Shape) -> int:
    return len(shape) if type(shape) is Layout else len(shape) + 1


def _number(node: Node, name: str) -> object:
    """One number for all axes where it is one, else a tuple."""
    value = node.attributes[name]
    if isinstance(value, tuple):
        return value[0] if len(set(value)) == 1 else Raw(literal(value))
    return value


def _option(node: Node, name: str, default: object) -> Hole:
    return Hole(_number(node, name), name, keyword=name, default=default)


def _kernel(sizes: Sequence[int]) -> Hole:
    return Hole(sizes[0] if len(set(sizes)) == 1 else Raw(literal(tuple(sizes))), "kernel_size")


def _conv(node: Node, shapes: Sequence[Shape]) -> list[Token]:
    weight = shapes[1]
    channels = Hole(weight[1] * node.attributes["groups"], "in_channels"), Hole(weight[0], "out_channels")
    options = [_option(node, name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))]
    head: list[Token] = [f"nn.Conv{len(weight) - 2}d(", channels[0], ", ", channels[1], ", ", _kernel(weight[2:])]
    return [*head, *options, _option(node, "groups", 1), "" if len(shapes) > 2 else ", bias=False", ")"]


def _conv_transpose(node: Node, shapes: Sequence[Shape]) -> list[Token]:
    weight = shapes[1]
    channels = Hole(weight[0], "in_channels"), Hole(weight[1] * node.attributes["groups"], "out_channels")
    names = (("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1))
    options = [_option(node, name, default) for name, default in names]
    head: list[Token] = [f"nn.ConvTranspose{len(weight) - 2}d(", channels[0], ", ", channels[1], ", "]
    tail = ["" if len(shapes) > 2 else ", bias=False", _option(node, "dilation", 1), ")"]
    return [*head, _kernel(weight[2:]), *options, *tail]


def _linear(node: Node, shapes: Sequence[Shape]) -> list[Token]:
    outputs, inputs = shapes[1]
    bias = "" if len(shapes) > 2 else ", bias=False"
    return ["nn.Linear(", Hole(inputs, "in_features"), ", ", Hole(outputs, "out_features"), f"{bias})"]


def _batch_norm(node: Node, shapes: Sequence[Shape]) -> list[Token] | None:
    rank = _rank(shapes[0])
    if not 2 <= rank <= 5:
        return None
    head: list[Token] = [
        f"nn.BatchNorm{max(1, rank - 2)}d(",
        Hole(shapes[1][0], "channels"),
        _option(node, "eps", 1e-5),
    ]
    if statistics_of(node) is None:
        return [*head, ", track_running_stats=False)"]
    return [*head, _option(node, "momentum", 0.1), ")"]


def _sizes(shape: Shape) -> list[Token]:
    """The shape that a norm covers: one number, or a tuple."""
    if len(shape) == 1:
        return [Hole(shape[0], "features")]
    inner = [token for size in shape for token in (", ", Hole(size, "size"))][1:]
    return ["(", *inner, ")"]


def _layer_norm(node: Node, shapes: Sequence[Shape]) -> list[Token]:
    bias = "" if len(shapes) > 2 else ", bias=False"
    return ["nn.LayerNorm(", *_sizes(shapes[1]), _option(node, "eps", 1e-5), f"{bias})"]


def _rms_norm(node: Node, shapes: Sequence[Shape]) -> list[Token]:
    return ["nn.RMSNorm(", *_sizes(shapes[1]), _option(node, "eps", None), ")"]


def _group_norm(node: Node, shapes: Sequence[Shape]) -> list[Token] | None:
    if len(shapes) < 3:  # torch's layer has both or none
        return None
    groups = Hole(node.attributes["groups"], "groups")
    return ["nn.GroupNorm(", groups, ", ", Hole(shapes[1][0], "channels"), _option(node, "eps", 1e-5), ")"]


def _prelu(node: Node, shapes: Sequence[Shape]) -> list[Token]:
    return ["nn.PReLU(", Hole(shapes[1][0], "channels", keyword=""), ")"]


MAKERS: Mapping[str, Callable[[Node, Sequence[Shape]], list[Token] | None]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
}
