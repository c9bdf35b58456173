"""The rest of the table of primitives: what modules do to tensors besides the layers of ``primitives.py``.

Axes count all axes of the real tensor, the batch included. Shapes are found by a dry run, so that each entry is its
attributes and one expression. ``moves`` marks those that only move data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.errors import ArchitectureError
from hypernas.graphs.packing import unpack
from hypernas.graphs.primitive import REQUIRED, Attributes, Layout, Mismatch, Primitive, Shape, positions, register

Apply = Callable[[Sequence[Tensor], Attributes], Tensor]
Macs = Callable[[Sequence[Shape], Shape, Attributes], int]


def _add(
    name: str,
    apply: Apply,
    arity: int | tuple[int, int | None] = 1,
    *,
    moves: bool = False,
    macs: Macs | None = None,
    commutative: bool = False,
    n_data: int | None = None,
    **defaults: Any,
) -> None:
    counts = (arity, arity) if isinstance(arity, int) else arity

    def applied(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
        return apply(inputs, attributes)

    cost = {} if macs is None else {"macs": macs}
    register(
        Primitive(name, counts, None, applied, defaults, commutative=commutative, n_data=n_data, moves=moves, **cost)
    )


# --- constants -----------------------------------------------------------------------------------------------------


def _constant_shape(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    value = unpack(attributes["value"])
    if value.dtype != torch.float32:
        raise Mismatch(f"a constant is a packed float32 array, not {value.dtype}")
    return Layout(value.shape)


register(
    Primitive(
        "constant",
        (0, 0),
        _constant_shape,
        lambda inputs, attributes, training: unpack(attributes["value"]),
        {"value": REQUIRED},
    )
)


# --- moving data ---------------------------------------------------------------------------------------------------


def _slice(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    x = inputs[0]
    index = [slice(None)] * x.dim()
    index[a["axis"]] = slice(a["start"], a["stop"], a["step"])
    return x[tuple(index)]


def _expand(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """With a second input, the network's, axis ``batch`` gets its batch size."""
    if (a["batch"] is None) != (len(inputs) == 1):
        raise Mismatch("expand has a second input and the attribute 'batch', or neither")
    shape = list(a["shape"])
    if a["batch"] is not None:
        shape[a["batch"]] = inputs[1].shape[0]
    return inputs[0].expand(shape)


def _take(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    x = inputs[0]
    indices = unpack(a["indices"], "cpu")
    if x.is_meta:  # in a dry run: with data it would be an error of the device, or none
        if indices.dtype != torch.int64 or indices.dim() != 1:
            raise Mismatch(
                f"indices are a packed int64 array of one axis, not {indices.dtype} of shape {tuple(indices.shape)}"
            )
        n = x.shape[a["axis"]]
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < n:
            raise Mismatch(f"the indices into an axis of size {n} are 0 to {n - 1}, not {indices.tolist()}")
    return x.index_select(a["axis"], indices.to(x.device))


def _pad(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    value = a["value"] if a["mode"] == "constant" else None
    return F.pad(inputs[0], tuple(a["padding"]), a["mode"], value)


def _at_least(least: int, a: Attributes, name: str) -> None:
    values = a[name]
    if min((values,) if isinstance(values, int) else values) < least:
        raise Mismatch(f"{name} is at least {least}, not {values}")


def _unfold(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    _at_least(0, a, "padding")
    return F.unfold(inputs[0], a["kernel"], a["dilation"], a["padding"], a["stride"])


def _on(x: Tensor, packed: Any) -> Tensor:
    return unpack(packed, x.device)


_add("reshape", lambda i, a: i[0].reshape(tuple(a["shape"])), moves=True, shape=REQUIRED)
_add("permute", lambda i, a: i[0].permute(tuple(a["axes"])), moves=True, axes=REQUIRED)
_add("slice", _slice, moves=True, axis=REQUIRED, start=0, stop=None, step=1)
_add("select", lambda i, a: i[0].select(a["axis"], a["index"]), moves=True, axis=REQUIRED, index=REQUIRED)
_add("expand", _expand, (1, 2), moves=True, shape=REQUIRED, batch=None)
_add("repeat", lambda i, a: i[0].repeat(tuple(a["times"])), moves=True, times=REQUIRED)
_add("flip", lambda i, a: i[0].flip(tuple(a["axes"])), moves=True, axes=REQUIRED)
_add("roll", lambda i, a: i[0].roll(tuple(a["shifts"]), tuple(a["axes"])), moves=True, shifts=REQUIRED, axes=REQUIRED)
_add("pad", _pad, moves=True, padding=REQUIRED, mode="constant", value=0.0)
_add("take", _take, moves=True, axis=REQUIRED, indices=REQUIRED)
_add("pixel_shuffle", lambda i, a: F.pixel_shuffle(i[0], a["factor"]), moves=True, factor=REQUIRED)
_add("pixel_unshuffle", lambda i, a: F.pixel_unshuffle(i[0], a["factor"]), moves=True, factor=REQUIRED)
_add(
    "unfold",
    _unfold,
    moves=True,
    kernel=REQUIRED,
    stride=1,
    padding=0,
    dilation=1,
)


# --- with parameters -----------------------------------------------------------------------------------------------

_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def _conv_transpose(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    x, weight = inputs[0], inputs[1]
    if x.is_meta:  # in a dry run, where torch does not look
        if weight.dim() != x.dim() or weight.shape[0] != x.shape[1] or weight.shape[0] % a["groups"]:
            raise Mismatch(
                f"the weight of a transposed convolution of {tuple(x.shape[1:])} in {a['groups']} groups is "
                f"({x.shape[1]}, outputs / groups, *kernel), not {tuple(weight.shape)}"
            )
        features = weight.shape[1] * a["groups"]
        if len(inputs) > 2 and inputs[2].shape != (features,):
            raise Mismatch(f"the bias has shape ({features},), not {tuple(inputs[2].shape)}")
    for name, least in (("padding", 0), ("output_padding", 0), ("stride", 1), ("dilation", 1)):
        _at_least(least, a, name)
    bias = inputs[2] if len(inputs) > 2 else None
    options = (a["stride"], a["padding"], a["output_padding"], a["groups"], a["dilation"])
    return _CONV_TRANSPOSE[x.dim() - 2](x, weight, bias, *options)


def _rms_norm(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """Zhang and Sennrich 2019."""
    scale = inputs[1] if len(inputs) > 1 else None
    return F.rms_norm(inputs[0], inputs[0].shape[-a["n_axes"] :], scale, a["eps"])


_add(
    "conv_transpose",
    _conv_transpose,
    (2, 3),
    # each input value is multiplied with the whole kernel of its group
    macs=lambda i, output, a: positions(i[0]) * math.prod(i[1]),
    n_data=1,
    stride=1,
    padding=0,
    output_padding=0,
    dilation=1,
    groups=1,
)
_add("rms_norm", _rms_norm, (1, 2), n_data=1, n_axes=1, eps=None)
_add("prelu", lambda i, a: F.prelu(i[0], i[1]), 2, n_data=1)


# --- products ------------------------------------------------------------------------------------------------------


def _attention(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """softmax(q k^T scale + mask) v (Vaswani et al. 2017, equation 1): (..., L, E), (..., S, E), (..., S, V)."""
    mask = inputs[3] if len(inputs) > 3 else None
    q, k, v = inputs[:3]
    if mask is not None and q.is_meta:  # in a dry run, where torch does not look
        scores = (q @ k.mT).shape
        if mask.dim() < 2 or torch.broadcast_shapes(mask.shape, scores) != scores:  # type: ignore[no-untyped-call]
            raise Mismatch(f"the mask of attention fits scores of shape {tuple(scores)}, not {tuple(mask.shape)}")
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=a["causal"], scale=a["scale"])


def _einsum_macs(inputs: Sequence[Shape], output: Shape, a: Attributes) -> int:
    """One for each combination of indices; the axes of an ellipsis are numbered from the right."""
    sizes: dict[str, int] = {}
    for term, shape in zip(a["equation"].replace(" ", "").split("->")[0].split(","), inputs, strict=True):
        whole = shape if type(shape) is Layout else (1, *shape)
        before, dots, after = term.partition("...")
        hidden = [str(i) for i in range(len(whole) - len(before) - len(after))][::-1] if dots else []
        for letter, size in zip([*before, *hidden, *after], whole, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))  # sizes of 1 are broadcast
    return math.prod(sizes.values()) if len(inputs) > 1 else 0


_add("matmul", lambda i, a: i[0] @ i[1], 2, macs=lambda i, output, a: math.prod(output) * i[0][-1])
_add("einsum", lambda i, a: torch.einsum(a["equation"], *i), (1, None), macs=_einsum_macs, equation=REQUIRED)
_add(
    "attention",
    _attention,
    (3, 4),
    macs=lambda i, output, a: math.prod(output[:-1]) * i[1][-2] * (i[0][-1] + i[2][-1]),
    scale=None,
    causal=False,
)


# --- element by element --------------------------------------------------------------------------------------------

_add("subtract", lambda i, a: i[0] - i[1], 2)
_add("divide", lambda i, a: i[0] / i[1], 2)
_add("maximum", lambda i, a: torch.maximum(i[0], i[1]), 2, commutative=True)
_add("minimum", lambda i, a: torch.minimum(i[0], i[1]), 2, commutative=True)
_add("affine", lambda i, a: i[0] * a["scale"] + a["shift"], scale=1.0, shift=0.0)
_add("power", lambda i, a: i[0] ** a["exponent"], exponent=REQUIRED)
_add("clamp", lambda i, a: i[0].clamp(a["least"], a["most"]), least=None, most=None)
_add("masked_fill", lambda i, a: i[0].masked_fill(_on(i[0], a["mask"]), a["value"]), mask=REQUIRED, value=REQUIRED)

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "mish": F.mish,
    "selu": F.selu,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "abs": torch.abs,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
}


def _of_one(function: Callable[[Tensor], Tensor]) -> Apply:
    return lambda inputs, attributes: function(inputs[0])


for _name, _function in _FUNCTIONS.items():
    _add(_name, _of_one(_function))
_add("leaky_relu", lambda i, a: F.leaky_relu(i[0], a["slope"]), slope=0.01)
_add("elu", lambda i, a: F.elu(i[0], a["alpha"]), alpha=1.0)


def _softmax(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    x = inputs[0]
    x.size(a["axis"])  # a dry run's softmax takes any axis
    return x.softmax(a["axis"])


_add("softmax", _softmax, axis=REQUIRED)
_add("log_softmax", lambda i, a: i[0].log_softmax(a["axis"]), axis=REQUIRED)


# --- reductions and sizes ------------------------------------------------------------------------------------------


def _axes(a: Attributes) -> tuple[int, ...]:
    axes = tuple(a["axes"])
    if len(set(axes)) < len(axes):
        raise Mismatch(f"axes are named once each, not {axes}")
    return axes


def _variance(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    x, axes = inputs[0], _axes(a)
    if x.is_meta and math.prod(x.shape[axis] for axis in axes) <= a["correction"]:
        raise Mismatch(f"the variance is that of more than {a['correction']} values")
    return x.var(axes, correction=a["correction"], keepdim=a["keep"])


_add("mean", lambda i, a: i[0].mean(_axes(a), a["keep"]), axes=REQUIRED, keep=False)
_add("sum", lambda i, a: i[0].sum(_axes(a), a["keep"]), axes=REQUIRED, keep=False)
_add("amax", lambda i, a: i[0].amax(_axes(a), a["keep"]), axes=REQUIRED, keep=False)
_add("amin", lambda i, a: i[0].amin(_axes(a), a["keep"]), axes=REQUIRED, keep=False)
_add("variance", _variance, axes=REQUIRED, keep=False, correction=1)
_add(
    "norm",
    lambda i, a: torch.linalg.vector_norm(i[0], a["order"], _axes(a), a["keep"]),
    order=2,
    axes=REQUIRED,
    keep=False,
)

_ADAPTIVE_AVERAGE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
_add("adaptive_average_pool", lambda i, a: _ADAPTIVE_AVERAGE[i[0].dim() - 2](i[0], a["size"]), size=REQUIRED)
_add("adaptive_max_pool", lambda i, a: _ADAPTIVE_MAX[i[0].dim() - 2](i[0], a["size"]), size=REQUIRED)
_add(
    "resize",
    lambda i, a: F.interpolate(i[0], tuple(a["size"]), mode=a["mode"], align_corners=a["align_corners"]),
    size=REQUIRED,
    mode="nearest",
    align_corners=None,
)


# --- what has no primitive -----------------------------------------------------------------------------------------


def _opaque(inputs: Sequence[Tensor], a: Attributes) -> Tensor:
    """Shapes only: the batch is read off the first input, whose axis and factor ``reads`` gives."""
    x, (axis, factor) = inputs[0], a["reads"]
    if not x.is_meta:
        raise ArchitectureError(
            "An architecture with an operation that no primitive represents cannot run",
            value="opaque",
            remedy="Run the module that it was traced from.",
        )
    sizes = list(a["shape"])
    if a["batch"] is not None:
        sizes[a["batch"]] *= x.shape[axis] // factor
    return torch.empty(sizes, device="meta")


# stands in the graph of a traced module for an operation that is not in this table: all axes of the output as a
# ``Layout`` has them, so that the hypernetwork sees what comes before and after
_add("opaque", _opaque, (1, None), shape=REQUIRED, batch=None, reads=(0, 1))
