"""How each primitive is written in plain torch: one entry for each of the table, as ``PRIMITIVES`` has them.

A form is text with fields (see ``tokens.fill``). What depends on the node, such as the number of axes, is a function of
it. Operations whose parameters stand together are layers (see ``layers``) and have their form for the other case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypernas.errors import ArchitectureError
from hypernas.graphs.architecture import Node
from hypernas.graphs.primitives import Layout, Shape

__all__ = ["FORMS", "NO_CODE", "Operation"]

NO_CODE = ("input", "parameter", "buffer", "constant")  # what is read, not run
STAND_IN = "opaque"


@dataclass(frozen=True)
class Operation:
    """A node as its form sees it.

    Attributes:
        shapes: of its inputs.
        running: whether running statistics are kept, for batch norm.
    """

    node: Node
    shapes: tuple[Shape, ...]
    running: bool = False

    def __getitem__(self, name: str) -> Any:
        return self.node.attributes[name]

    @property
    def n_inputs(self) -> int:
        return len(self.shapes)

    @property
    def rank(self) -> int:
        """Axes of the first input's tensor."""
        shape = self.shapes[0]
        return len(shape) if type(shape) is Layout else len(shape) + 1

    @property
    def spatial(self) -> int:
        return self.rank - 2


Form = str | Callable[[Operation], str]


def _elements(name: str, n: int) -> str:
    return ", ".join(f"{{{name}.{i}}}" for i in range(n))


def _bracketed(name: str, values: Any) -> str:
    """A tuple whose numbers may differ between instances."""
    return f"({_elements(name, len(values))}{',' if len(values) == 1 else ''})"


def _plain(values: Any) -> str:
    """A tuple of axes, part of the text; one axis without brackets."""
    values = tuple(map(int, values))
    return str(values[0]) if len(values) == 1 else str(values)


def _infix(sign: str) -> Callable[[Operation], str]:
    return lambda o: f" {sign} ".join(f"{{{i}}}" for i in range(o.n_inputs))


def _bias(o: Operation, keyword: str = "") -> str:
    return f", {keyword}{{2}}" if o.n_inputs > 2 else ""


def _conv(o: Operation) -> str:
    options = "{stride?1}{padding?0}{dilation?1}{groups?1}"
    return f"F.conv{o.spatial}d({{0}}, {{1}}{_bias(o)}{options})"


def _conv_transpose(o: Operation) -> str:
    options = "{stride?1}{padding?0}{output_padding?0}{groups?1}{dilation?1}"
    return f"F.conv_transpose{o.spatial}d({{0}}, {{1}}{_bias(o)}{options})"


def _batch_norm(o: Operation) -> str:
    if not o.running:
        return "F.batch_norm({0}, None, None, {1}, {2}, training=True, momentum=0.0{eps?1e-05})"
    names = "{=running_mean}, {=running_var}, {1}, {2}"
    return f"F.batch_norm({{0}}, {names}, self.training{{momentum?0.1}}{{eps?1e-05}})"


def _layer_norm(o: Operation) -> str:
    sizes = "{0}.shape[" + str(-o["n_axes"]) + ":]"
    given = "".join((", {1}" if o.n_inputs > 1 else "", ", {2}" if o.n_inputs > 2 else ""))
    return f"F.layer_norm({{0}}, {sizes}{given}{{eps?1e-05}})"


def _rms_norm(o: Operation) -> str:
    sizes = "{0}.shape[" + str(-o["n_axes"]) + ":]"
    return f"F.rms_norm({{0}}, {sizes}{', {1}' if o.n_inputs > 1 else ''}{{eps?None}})"


def _group_norm(o: Operation) -> str:
    given = "".join((", {1}" if o.n_inputs > 1 else "", ", {2}" if o.n_inputs > 2 else ""))
    return f"F.group_norm({{0}}, {{groups}}{given}{{eps?1e-05}})"


def _concat(o: Operation) -> str:
    inputs = ", ".join(f"{{{i}}}" for i in range(o.n_inputs))
    return f"torch.cat([{inputs}], dim={int(o['axis']) + 1})"


def _max_pool(o: Operation) -> str:
    return f"F.max_pool{o.spatial}d({{0}}, {{kernel}}, stride={{stride}}{{padding?0}})"


def _average_pool(o: Operation) -> str:
    return f"F.avg_pool{o.spatial}d({{0}}, {{kernel}}, stride={{stride}}{{padding?0}}, count_include_pad=False)"


def _global_average_pool(o: Operation) -> str:
    axes = tuple(range(2, o.rank))
    return f"{{0}}.mean({_plain(axes)}{', keepdim=True' if o['keep_axes'] else ''})"


def _slice(o: Operation) -> str:
    axis = range(o.rank)[o["axis"]]
    start, stop, step = o["start"], o["stop"], o["step"]
    first = "" if start in (None, 0) else "{start}"
    last = "" if stop is None else "{stop}"
    return f"{{0}}[{':, ' * axis}{first}:{last}{':{step}' if step not in (None, 1) else ''}]"


def _select(o: Operation) -> str:
    return f"{{0}}[{':, ' * range(o.rank)[o['axis']]}{{index}}]"


def _expand(o: Operation) -> str:
    sizes = [f"{{shape.{i}}}" for i in range(len(o["shape"]))]
    if o["batch"] is not None:
        sizes[o["batch"]] = "{1}.shape[0]"
    return f"{{0}}.expand({', '.join(sizes)})"


def _pad(o: Operation) -> str:
    text = f"F.pad({{0}}, {_bracketed('padding', o['padding'])}"
    return f"{text}{{value?0.0}})" if o["mode"] == "constant" else f"{text}, mode={o['mode']!r})"


def _reduction(name: str) -> Callable[[Operation], str]:
    def form(o: Operation) -> str:
        return f"{{0}}.{name}({_plain(o['axes'])}{', keepdim=True' if o['keep'] else ''})"

    return form


def _variance(o: Operation) -> str:
    return f"{{0}}.var({_plain(o['axes'])}{{correction?1}}{', keepdim=True' if o['keep'] else ''})"


def _norm(o: Operation) -> str:
    axes = _plain(o["axes"])
    return f"torch.linalg.vector_norm({{0}}, {{order}}, dim={axes}{', keepdim=True' if o['keep'] else ''})"


def _attention(o: Operation) -> str:
    mask = ", attn_mask={3}" if o.n_inputs > 3 else ""
    causal = ", is_causal=True" if o["causal"] else ""
    return f"F.scaled_dot_product_attention({{0}}, {{1}}, {{2}}{mask}{causal}{{scale?None}})"


def _affine(o: Operation) -> str:
    if o["shift"] == 0:
        return "{0} * {scale}"
    return "{0} + {shift}" if o["scale"] == 1 else "{0} * {scale} + {shift}"


def _clamp(o: Operation) -> str:
    options = [f"{key}={{{name}}}" for key, name in (("min", "least"), ("max", "most")) if o[name] is not None]
    return f"{{0}}.clamp({', '.join(options)})"


def _einsum(o: Operation) -> str:
    inputs = ", ".join(f"{{{i}}}" for i in range(o.n_inputs))
    return f"torch.einsum({o['equation']!r}, {inputs})"


def _resize(o: Operation) -> str:
    options = "" if o["mode"] == "nearest" else f", mode={o['mode']!r}"
    corners = "" if o["align_corners"] is None else f", align_corners={bool(o['align_corners'])}"
    return f"F.interpolate({{0}}, size={_bracketed('size', o['size'])}{options}{corners})"


def _unfold(o: Operation) -> str:
    return "F.unfold({0}, {kernel}{dilation?1}{padding?0}{stride?1})"


def _opaque(o: Operation) -> str:
    raise ArchitectureError(
        f"An exported architecture is of primitives alone; {o.node.name!r} stands for something else",
        value=STAND_IN,
        remedy="Export the module that it was traced from.",
    )


def _function(name: str) -> str:
    return f"{name}({{0}})"


FORMS: dict[str, Form] = {
    "conv": _conv,
    "linear": lambda o: f"F.linear({{0}}, {{1}}{_bias(o)})",
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    **{name: _function(f"F.{name}") for name in ("relu", "relu6", "gelu", "silu", "hardswish", "hardsigmoid")},
    **{name: _function(f"F.{name}") for name in ("softplus", "mish", "selu")},
    **{name: _function(f"torch.{name}") for name in ("sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt", "abs")},
    **{name: _function(f"torch.{name}") for name in ("erf", "sin", "cos")},
    "gelu_tanh": 'F.gelu({0}, approximate="tanh")',
    "leaky_relu": "F.leaky_relu({0}, {slope})",
    "elu": "F.elu({0}{alpha?1.0})",
    "zeros": "{0} * 0",
    "identity": "{0}",
    "add": _infix("+"),
    "multiply": _infix("*"),
    "subtract": _infix("-"),
    "divide": _infix("/"),
    "matmul": _infix("@"),
    "maximum": "torch.maximum({0}, {1})",
    "minimum": "torch.minimum({0}, {1})",
    "affine": _affine,
    "power": "{0} ** {exponent}",
    "clamp": _clamp,
    "masked_fill": "{0}.masked_fill({@mask}, {value})",
    "concat": _concat,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "global_average_pool": _global_average_pool,
    "flatten": "{0}.flatten(1)",
    "reshape": lambda o: f"{{0}}.reshape({_elements('shape', len(o['shape']))})",
    "permute": lambda o: f"{{0}}.permute{tuple(map(int, o['axes']))}",
    "slice": _slice,
    "select": _select,
    "expand": _expand,
    "repeat": lambda o: f"{{0}}.repeat({_elements('times', len(o['times']))})",
    "flip": lambda o: f"{{0}}.flip({tuple(map(int, o['axes']))})",
    "roll": lambda o: f"{{0}}.roll({_bracketed('shifts', o['shifts'])}, {tuple(map(int, o['axes']))})",
    "pad": _pad,
    "take": "{0}.index_select({axis}, {@indices})",
    "pixel_shuffle": "F.pixel_shuffle({0}, {factor})",
    "pixel_unshuffle": "F.pixel_unshuffle({0}, {factor})",
    "unfold": _unfold,
    "conv_transpose": _conv_transpose,
    "rms_norm": _rms_norm,
    "prelu": "F.prelu({0}, {1})",
    "einsum": _einsum,
    "attention": _attention,
    "softmax": "F.softmax({0}, dim={axis})",
    "log_softmax": "F.log_softmax({0}, dim={axis})",
    "mean": _reduction("mean"),
    "sum": _reduction("sum"),
    "amax": _reduction("amax"),
    "amin": _reduction("amin"),
    "variance": _variance,
    "norm": _norm,
    "adaptive_average_pool": lambda o: f"F.adaptive_avg_pool{o.spatial}d({{0}}, {{size}})",
    "adaptive_max_pool": lambda o: f"F.adaptive_max_pool{o.spatial}d({{0}}, {{size}})",
    "resize": _resize,
    "opaque": _opaque,
}
