"""Convolutions, linear layers, normalisation, products and attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from hypernas.graphs.packing import pack
from hypernas.graphs.tracing.draft import Draft
from hypernas.graphs.tracing.operators.table import Arguments, fixed, ints, one_or_all, operation
from hypernas.graphs.tracing.values import Const, Gap, Value

# --- convolution -----------------------------------------------------------------------------------------------------


def _same_padding(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> list[tuple[int, int]]:
    """Before and after, for each axis: the odd one goes after, as in torch."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _inputs(g: Draft, x: Any, weight: Any, bias: Any) -> list[Value]:
    return [g.value(x), g.value(weight), *([] if bias is None else [g.value(bias)])]


@operation("conv1d", "conv2d", "conv3d", "convolution")
def _conv(g: Draft, a: Arguments) -> Value:
    if a.transposed:
        return _conv_transpose(g, a)
    x, weight, *bias = _inputs(g, a.x, a.weight, a.bias)
    n = weight.rank - 2
    if x.rank != n + 2:
        raise Gap("a convolution without a batch axis")
    dilation = ints(a.dilation, n)
    padding: tuple[int, ...] = (0,) * n
    if a.padding == "same":
        sides = _same_padding(tuple(fixed(weight, 2 + i) for i in range(n)), dilation)
        padding = tuple(before for before, _ in sides)
        if any(before != after for before, after in sides):
            x = g.add("pad", x, padding=tuple(side for pair in reversed(sides) for side in pair))
            padding = (0,) * n
    elif a.padding != "valid":
        padding = ints(a.padding, n)
    return g.add(
        "conv",
        x,
        weight,
        *bias,
        stride=one_or_all(ints(a.stride, n)),
        padding=one_or_all(padding),
        dilation=one_or_all(dilation),
        groups=a.groups,
    )


@operation("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(g: Draft, a: Arguments) -> Value:
    x, weight, *bias = _inputs(g, a.x, a.weight, a.bias)
    n = weight.rank - 2
    if x.rank != n + 2:
        raise Gap("a convolution without a batch axis")
    names = ("stride", "padding", "output_padding", "dilation")
    sizes = {name: one_or_all(ints(a[name], n)) for name in names}
    return g.add("conv_transpose", x, weight, *bias, groups=a.groups, **sizes)


# --- linear ----------------------------------------------------------------------------------------------------------


@operation("linear")
def _linear(g: Draft, a: Arguments) -> Value:
    if a.weight.rank != 2:
        raise Gap("a linear layer whose weight has one axis")
    return g.add("linear", *_inputs(g, a.x, a.weight, a.bias))


@operation("matmul", "mm", "bmm", "mv", "dot", "vdot")
def _matmul(g: Draft, a: Arguments) -> Value:
    x, y = g.value(a.x), g.value(next(a[name] for name in ("other", "mat2", "vec", "tensor") if name in a))
    return _linear_of(g, x, y) or g.add("matmul", x, y)


def _linear_of(g: Draft, x: Value, y: Value, *bias: Value) -> Value | None:
    """x @ w.T + bias, for a parameter w (outputs, inputs), is a linear layer."""
    node = g.made_by(y, "permute")
    if node is None or y.rank != 2 or x.rank < 2 or not y.parameters or not x.is_data:
        return None
    if any(b.rank != 1 or b.is_data or b.sizes != y.sizes[1:] for b in bias):
        return None
    return g.add("linear", x, g.value_of(node.inputs[0]), *bias)


@operation("addmm", "baddbmm", "addbmm", "addmv")
def _addmm(g: Draft, a: Arguments) -> Value:
    bias = g.value(a.x)
    names = ("mat1", "mat2") if "mat1" in a else ("batch1", "batch2") if "batch1" in a else ("mat", "vec")
    x, y = (g.value(a[name]) for name in names)
    if (a.alpha, a.beta) == (1, 1) and (found := _linear_of(g, x, y, bias)) is not None:
        return found
    g.set_role(bias, "bias")
    return g.add("add", g.affine(g.add("matmul", x, y), a.alpha), g.affine(bias, a.beta))


@operation("einsum")
def _einsum(g: Draft, a: Arguments) -> Value:
    return g.add("einsum", *(g.value(x) for x in a.tensors), equation=a.equation)


# --- attention -------------------------------------------------------------------------------------------------------


@operation("scaled_dot_product_attention")
def _attention(g: Draft, a: Arguments) -> Value:
    """Boolean masks become numbers to add: 0 where a position may be seen, else minus infinity."""
    if a.dropout_p:
        raise Gap("dropout that is always on")
    q, k, v = (g.value(x) for x in (a.query, a.key, a.value))
    if a.enable_gqa:
        k, v = (_repeat_heads(g, x, fixed(q, q.rank - 3)) for x in (k, v))
    mask = a.attn_mask
    if isinstance(mask, Const) and mask.at[0].dtype == torch.bool:
        mask = Const(tuple(torch.zeros(m.shape).masked_fill(~m, -math.inf) for m in mask.at))  # type: ignore[arg-type]
    inputs = (q, k, v) if mask is None else (q, k, v, mask)
    return g.add("attention", *inputs, scale=a.scale, causal=bool(a.is_causal))


def _repeat_heads(g: Draft, x: Value, n_heads: int) -> Value:
    """Grouped queries (Ainslie et al. 2023): several heads of q share one of k and v."""
    axis = x.rank - 3
    n = fixed(x, axis)
    if n == n_heads:
        return x
    return g.add("take", x, axis=axis, indices=pack(torch.arange(n).repeat_interleave(n_heads // n)))


# --- normalisation ---------------------------------------------------------------------------------------------------

MOMENTUM = 0.1  # torch's default, for layers that average over all batches: the graph has no counter
NO_MOMENTUM = 0.0  # for layers that keep no running statistics, and use those of the batch in evaluation mode too


@operation("_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
def _native_batch_norm(g: Draft, a: Arguments) -> list[Value | None]:
    """What torch makes of batch norm where a graph is rewritten without writing in place."""
    return [_batch_norm(g, a), None, None]


@operation("batch_norm")
def _batch_norm(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    n = fixed(x, 1)
    scale, shift = _scale_and_shift(g, a, n, both=True)
    statistics = []
    if a.running_mean is not None and not a.training:
        for given, role in ((a.running_mean, "mean"), (a.running_var, "variance")):
            if not isinstance(given, Const) or given.buffer is None:
                raise Gap("running statistics that are not buffers")
            statistics.append(g.buffer(given.buffer, n, role))
    momentum = a.momentum or MOMENTUM if statistics else NO_MOMENTUM
    return g.add("batch_norm", x, scale, shift, *statistics, eps=a.eps, momentum=momentum)


def _scale_and_shift(g: Draft, a: Arguments, shape: int | tuple[int, ...], *, both: bool = False) -> list[Value]:
    """The inputs after the first; ones and zeros stand in where there is one but not the other, or ``both``."""
    if a.weight is None and a.bias is None and not both:
        return []
    values = [g.constant(torch.ones(shape)) if a.weight is None else g.value(a.weight)]
    if a.bias is not None or both:
        values.append(g.constant(torch.zeros(shape)) if a.bias is None else g.value(a.bias))
    return values


@operation("layer_norm")
def _layer_norm(g: Draft, a: Arguments) -> Value:
    shape = tuple(a.normalized_shape)
    return g.add("layer_norm", a.x, *_scale_and_shift(g, a, shape), n_axes=len(shape), eps=a.eps)


@operation("rms_norm")
def _rms_norm(g: Draft, a: Arguments) -> Value:
    inputs = [] if a.weight is None else [g.value(a.weight)]
    return g.add("rms_norm", a.x, *inputs, n_axes=len(a.normalized_shape), eps=a.eps)


@operation("group_norm")
def _group_norm(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    return g.add("group_norm", x, *_scale_and_shift(g, a, fixed(x, 1)), groups=a.num_groups, eps=a.eps)


@operation("instance_norm")
def _instance_norm(g: Draft, a: Arguments) -> Value:
    """A group for each channel (Wu and He 2018, section 3); batch norm where it keeps running statistics."""
    if not a.use_input_stats:
        return _batch_norm(g, a)
    x = g.value(a.x)
    n = fixed(x, 1)
    return g.add("group_norm", x, *_scale_and_shift(g, a, n), groups=n, eps=a.eps)


@operation("_weight_norm")
def _weight_norm(g: Draft, a: Arguments) -> Value:
    """g v / |v| (Salimans and Kingma 2016, equation 2), the norm over all axes but ``dim``."""
    v = g.value(a.v)
    axes = tuple(axis for axis in range(v.rank) if a.dim == -1 or axis != a.dim % v.rank)
    g.set_role(a.g, "scale")
    length = g.add("norm", v, axes=axes, keep=True, order=2)
    return g.add("multiply", v, g.add("divide", a.g, length))


@operation("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _recurrent(g: Draft, a: Arguments) -> Any:
    raise Gap("a recurrent layer")
