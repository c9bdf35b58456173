"""The one table of primitive operations: attributes, output shape, cost and execution of each in one entry.

The architecture validates with ``infer``, the interpreter runs ``apply``, the cost model asks ``macs``, and the graph
hypernetwork embeds ``name`` and ``attributes``. A new operation is one new entry of ``PRIMITIVES``.

Shapes leave the batch axis out: an image is ``(channels, height, width)``, a vector ``(features,)``. The shape of a
parameter is that of its tensor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hypernas.graphs.kernels import average_pool2d, depthwise_conv2d
from hypernas.graphs.primitive import (
    PRIMITIVES,
    REQUIRED,
    Attributes,
    Layout,
    Mismatch,
    Primitive,
    Shape,
    positions,
    register,
)

__all__ = ["PRIMITIVES", "REQUIRED", "ROLES", "Attributes", "Layout", "Mismatch", "Primitive", "Shape"]


# --- sources -------------------------------------------------------------------------------------------------------


def _declared_shape(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    shape = tuple(attributes["shape"])
    if not shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise Mismatch(f"a shape has positive whole numbers, not {shape}", "give each axis a size of at least 1")
    return shape


def _source(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    raise AssertionError("the interpreter binds inputs and parameters; it never applies them")


ROLES = ("weight", "bias", "scale", "shift", "slope")  # the slope is that of a PReLU
STATISTICS = ("mean", "variance")


def _parameter_shape(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    if attributes["role"] not in ROLES:
        raise Mismatch(f"the role of a parameter is one of {', '.join(ROLES)}, not {attributes['role']!r}")
    return Layout(_declared_shape(inputs, attributes) if attributes["shape"] else ())  # a number has no axes


def _buffer_shape(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    if attributes["role"] not in STATISTICS:
        raise Mismatch(f"the role of a buffer is one of {', '.join(STATISTICS)}, not {attributes['role']!r}")
    return Layout(_declared_shape(inputs, attributes))


register(Primitive("input", (0, 0), _declared_shape, _source, {"shape": REQUIRED}))
register(Primitive("parameter", (0, 0), _parameter_shape, _source, {"shape": REQUIRED, "role": "weight"}))
# running statistics of batch norm, named by their key in the state dict
register(Primitive("buffer", (0, 0), _buffer_shape, _source, {"shape": REQUIRED, "role": REQUIRED}))


# --- convolution and linear ----------------------------------------------------------------------------------------


def _spatial(shape: Shape, what: str) -> Shape:
    if not 2 <= len(shape) <= 4:
        raise Mismatch(f"{what} takes (channels, *spatial) with 1 to 3 spatial axes, not {shape}", "reshape it first")
    return shape[1:]


def _per_axis(value: Any, n: int, name: str) -> tuple[int, ...]:
    values = (value,) * n if isinstance(value, int) else tuple(value)
    if len(values) != n or any(not isinstance(v, int) for v in values):
        raise Mismatch(f"{name} is a whole number or one for each of the {n} spatial axes, not {value!r}")
    return values


def _window(spatial: Shape, kernel: Shape, attributes: Attributes) -> Shape:
    """Output sizes of a sliding window (the formula of torch.nn.Conv2d)."""
    n = len(spatial)
    stride = _per_axis(attributes["stride"], n, "stride")
    padding = _per_axis(attributes["padding"], n, "padding")
    dilation = _per_axis(attributes.get("dilation", 1), n, "dilation")
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0 or min(kernel) < 1:
        raise Mismatch("kernel, stride and dilation are at least 1 and padding at least 0")
    sizes = tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(spatial, kernel, stride, padding, dilation, strict=True)
    )
    if min(sizes) < 1:
        raise Mismatch(
            f"the window {kernel} with dilation {dilation} does not fit into {spatial} padded by {padding}",
            "use larger images, fewer reductions or a smaller kernel",
        )
    return sizes


def _infer_bias(inputs: Sequence[Shape], features: int) -> None:
    if len(inputs) > 2 and inputs[2] != (features,):
        raise Mismatch(f"the bias has shape ({features},), not {inputs[2]}")


def _infer_conv(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    x, weight = inputs[0], inputs[1]
    spatial = _spatial(x, "a convolution")
    groups = attributes["groups"]
    if len(weight) != len(x) + 1:
        raise Mismatch(f"the weight has {len(x) + 1} axes for an input of shape {x}, not {weight}")
    if not isinstance(groups, int) or groups < 1 or x[0] % groups or weight[0] % groups:
        raise Mismatch(f"groups divides the {x[0]} input and {weight[0]} output channels; {groups!r} does not")
    if weight[1] * groups != x[0]:
        raise Mismatch(
            f"the weight {weight} in {groups} groups takes {weight[1] * groups} channels, the input has {x[0]}",
            "make the weight's second axis input channels / groups",
        )
    _infer_bias(inputs, weight[0])
    return (weight[0], *_window(spatial, weight[2:], attributes))


_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _apply_conv(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    x, weight = inputs[0], inputs[1]
    a = attributes
    if weight.requires_grad and len(inputs) == 2 and _slow_depthwise(x, weight, a):
        return depthwise_conv2d(x, weight, _first(a["stride"]), _first(a["padding"]), _first(a["dilation"]))
    bias = inputs[2] if len(inputs) > 2 else None
    return _CONV[x.dim() - 2](x, weight, bias, a["stride"], a["padding"], a["dilation"], a["groups"])


def _first(value: Any) -> int:
    return value if isinstance(value, int) else int(value[0])


def _slow_depthwise(x: Tensor, weight: Tensor, a: Attributes) -> bool:
    """Square depthwise kernels whose weight gradient is slow on a CPU: large or dilated ones."""
    if x.device.type != "cpu" or weight.dim() != 4 or weight.shape[1] != 1 or a["groups"] != x.shape[1]:
        return False
    square = weight.shape[2] == weight.shape[3] and all(
        isinstance(value, int) or len(set(value)) == 1 for value in (a["stride"], a["padding"], a["dilation"])
    )
    large = weight.shape[2] >= 5 or (weight.shape[2] >= 3 and _first(a["dilation"]) > 1)
    return square and large and weight.shape[0] == x.shape[1]


register(
    Primitive(
        "conv",
        (2, 3),
        _infer_conv,
        _apply_conv,
        {"stride": 1, "padding": 0, "dilation": 1, "groups": 1},
        macs=lambda inputs, output, attributes: math.prod(inputs[1]) * positions(output),
        n_data=1,
    )
)


def _infer_linear(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    x, weight = inputs[0], inputs[1]
    if len(weight) != 2 or weight[1] != x[-1]:
        raise Mismatch(f"a linear weight for {x[-1]} features has shape (outputs, {x[-1]}), not {weight}")
    _infer_bias(inputs, weight[0])
    return (*x[:-1], weight[0])


register(
    Primitive(
        "linear",
        (2, 3),
        _infer_linear,
        lambda inputs, attributes, training: F.linear(*inputs),
        {},
        macs=lambda inputs, output, attributes: math.prod(inputs[1]) * math.prod(output[:-1]),
        n_data=1,
    )
)


# --- normalisation -------------------------------------------------------------------------------------------------


def _affine(inputs: Sequence[Shape], shape: Shape) -> None:
    for given, what in zip(inputs[1:], ("scale", "shift", "mean", "variance"), strict=False):
        if given != shape:
            raise Mismatch(f"the {what} has shape {shape}, not {given}")


def _infer_batch_norm(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    if len(inputs) == 4:
        raise Mismatch("running statistics are a mean and a variance", "give both or none")
    _affine(inputs, inputs[0][:1])
    return inputs[0]


def _apply_batch_norm(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    """Inputs (x, scale, shift) use the batch's statistics; (..., running mean, running variance) as torch does."""
    x, scale, shift, *running = inputs
    if not running:
        return F.batch_norm(x, None, None, scale, shift, True, 0.0, attributes["eps"])
    return F.batch_norm(x, running[0], running[1], scale, shift, training, attributes["momentum"], attributes["eps"])


def _infer_layer_norm(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    n_axes = attributes["n_axes"]
    if not isinstance(n_axes, int) or not 1 <= n_axes <= len(inputs[0]):
        raise Mismatch(f"layer norm covers the last n_axes of {inputs[0]}; {n_axes!r} is not such a number")
    _affine(inputs, inputs[0][-n_axes:])
    return inputs[0]


def _apply_layer_norm(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    x, scale, shift = (*inputs, None, None)[:3]
    assert x is not None
    return F.layer_norm(x, x.shape[-attributes["n_axes"] :], scale, shift, attributes["eps"])


def _infer_group_norm(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    groups = attributes["groups"]
    if not isinstance(groups, int) or groups < 1 or inputs[0][0] % groups:
        raise Mismatch(f"group norm's groups divides the {inputs[0][0]} channels; {groups!r} does not")
    _affine(inputs, inputs[0][:1])
    return inputs[0]


def _apply_group_norm(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    x, scale, shift = (*inputs, None, None)[:3]
    assert x is not None
    return F.group_norm(x, attributes["groups"], scale, shift, attributes["eps"])


for _norm in (
    Primitive("batch_norm", (3, 5), _infer_batch_norm, _apply_batch_norm, {"eps": 1e-5, "momentum": 0.1}, n_data=1),
    Primitive("layer_norm", (1, 3), _infer_layer_norm, _apply_layer_norm, {"n_axes": 1, "eps": 1e-5}, n_data=1),
    Primitive("group_norm", (1, 3), _infer_group_norm, _apply_group_norm, {"groups": REQUIRED, "eps": 1e-5}, n_data=1),
):
    register(_norm)


# --- element by element --------------------------------------------------------------------------------------------


def _same(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    return inputs[0]


def _elementwise(name: str, function: Callable[[Tensor], Tensor]) -> Primitive:
    return Primitive(name, (1, 1), _same, lambda inputs, attributes, training: function(inputs[0]), {})


register(_elementwise("relu", F.relu))
register(_elementwise("relu6", F.relu6))
register(_elementwise("gelu", F.gelu))
register(_elementwise("silu", F.silu))
register(_elementwise("sigmoid", torch.sigmoid))
# the `none` of cell spaces: whatever finite comes in, zeros go on (a product, so that gradients find a path)
register(_elementwise("zeros", lambda x: x * 0))
register(Primitive("identity", (1, 1), _same, lambda inputs, attributes, training: inputs[0], {}, moves=True))


def _broadcast(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    if len({len(shape) for shape in inputs}) > 1:
        raise Mismatch(f"inputs have the same number of axes, not {', '.join(map(str, inputs))}", "reshape them first")
    try:
        return tuple(torch.broadcast_shapes(*inputs)) if len(set(inputs)) > 1 else inputs[0]  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise Mismatch(
            f"shapes {', '.join(map(str, inputs))} do not fit together",
            "project them to one shape, for example with a 1x1 convolution",
        ) from None


def _sum(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    return functools.reduce(torch.add, inputs)


def _product(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    return functools.reduce(torch.mul, inputs)


def _infer_concat(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    axis = attributes["axis"]
    ranks = {len(shape) for shape in inputs}
    if len(ranks) > 1 or not isinstance(axis, int) or not 0 <= axis < min(ranks):
        raise Mismatch(f"concat joins inputs along one axis that all have; got axis {axis!r}, shapes {list(inputs)}")
    rests = {shape[:axis] + shape[axis + 1 :] for shape in inputs}
    if len(rests) > 1:
        raise Mismatch(f"concat joins shapes that agree but for axis {axis}, not {', '.join(map(str, inputs))}")
    first = inputs[0]
    return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])


register(Primitive("add", (2, None), _broadcast, _sum, {}, commutative=True))
register(Primitive("multiply", (2, None), _broadcast, _product, {}, commutative=True))
register(
    Primitive(
        "concat",
        (1, None),
        _infer_concat,
        # attributes count axes without the batch, tensors with it
        lambda inputs, attributes, training: torch.cat(list(inputs), dim=attributes["axis"] + 1),
        {"axis": 0},
    )
)


# --- pooling and shape ---------------------------------------------------------------------------------------------


def _infer_pool(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    spatial = _spatial(inputs[0], "pooling")
    kernel = _per_axis(attributes["kernel"], len(spatial), "kernel")
    padding = _per_axis(attributes["padding"], len(spatial), "padding")
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise Mismatch(f"pooling pads by at most half of the kernel {kernel}, not {padding}")
    return (inputs[0][0], *_window(spatial, kernel, attributes))


_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _apply_max_pool(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    return _MAX_POOL[inputs[0].dim() - 2](inputs[0], attributes["kernel"], attributes["stride"], attributes["padding"])


def _apply_average_pool(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    """Mean over the part of the window that lies inside the image (padding is not counted)."""
    x = inputs[0]
    n = x.dim() - 2
    if n != 2 or x.device.type != "cpu":
        options = {"count_include_pad": False}
        return _AVERAGE_POOL[n](x, attributes["kernel"], attributes["stride"], attributes["padding"], **options)
    height, width = _per_axis(attributes["kernel"], n, "kernel")
    return average_pool2d(x, (height, width), attributes["stride"], attributes["padding"])


_POOL_DEFAULTS = {"kernel": REQUIRED, "stride": 1, "padding": 0}
register(Primitive("max_pool", (1, 1), _infer_pool, _apply_max_pool, _POOL_DEFAULTS))
register(Primitive("average_pool", (1, 1), _infer_pool, _apply_average_pool, _POOL_DEFAULTS))


def _infer_global_pool(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    spatial = _spatial(inputs[0], "global pooling")
    return inputs[0][:1] + ((1,) * len(spatial) if attributes["keep_axes"] else ())


def _apply_global_pool(inputs: Sequence[Tensor], attributes: Attributes, training: bool) -> Tensor:
    x = inputs[0]
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=attributes["keep_axes"])


register(Primitive("global_average_pool", (1, 1), _infer_global_pool, _apply_global_pool, {"keep_axes": False}))
register(
    Primitive(
        "flatten",
        (1, 1),
        lambda inputs, attributes: (math.prod(inputs[0]),),
        lambda inputs, attributes, training: inputs[0].flatten(1),
        {},
        moves=True,
    )
)

import hypernas.graphs.tensor_primitives  # noqa: E402, F401  (registers the rest of the table)
