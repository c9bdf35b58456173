"""Activation functions and reductions."""

from __future__ import annotations

import math
from typing import Any

from hypernas.graphs.tracing.draft import Draft
from hypernas.graphs.tracing.operators.arithmetic import clamped, number_of
from hypernas.graphs.tracing.operators.table import Arguments, axes_of, axis_of, fixed, operation
from hypernas.graphs.tracing.values import Gap, Value

# --- activation functions --------------------------------------------------------------------------------------------

SAME = (
    *("relu", "relu6", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "mish", "selu"),
    *("exp", "log", "sqrt", "rsqrt", "abs", "erf", "sin", "cos"),
)


def _register(name: str) -> None:
    operation(name)(lambda g, a: g.add(name, a.x))


for _name in SAME:
    _register(_name)


@operation("gelu")
def _gelu(g: Draft, a: Arguments) -> Value:
    return g.add("gelu_tanh" if a.approximate == "tanh" else "gelu", a.x)


@operation("softplus")
def _softplus(g: Draft, a: Arguments) -> Value:
    """log(1 + exp(beta x)) / beta; linear where beta x is above the threshold, which is the primitive's 20."""
    if a.threshold != 20:
        raise Gap("softplus with a threshold other than 20")
    return g.affine(g.add("softplus", g.affine(g.value(a.x), a.beta)), 1 / a.beta)


@operation("log_sigmoid", "log_sigmoid_forward")
def _log_sigmoid(g: Draft, a: Arguments) -> Value:
    return g.affine(g.add("softplus", g.affine(g.value(a.x), -1.0)), -1.0)


@operation("leaky_relu")
def _leaky_relu(g: Draft, a: Arguments) -> Value:
    return g.add("leaky_relu", a.x, slope=float(a.negative_slope))


@operation("rrelu")
def _rrelu(g: Draft, a: Arguments) -> Value:
    if a.training:
        raise Gap("random numbers")
    return g.add("leaky_relu", a.x, slope=(a.lower + a.upper) / 2)


@operation("elu")
def _elu(g: Draft, a: Arguments) -> Value:
    if (a.scale, a.input_scale) != (1, 1):
        raise Gap("a scaled ELU")
    return g.add("elu", a.x, alpha=float(a.alpha))


@operation("celu")
def _celu(g: Draft, a: Arguments) -> Value:
    """alpha ELU(x / alpha) (Barron 2017)."""
    return g.affine(g.add("elu", g.affine(g.value(a.x), 1 / a.alpha), alpha=1.0), a.alpha)


@operation("threshold")
def _threshold(g: Draft, a: Arguments) -> Value:
    if (a.threshold, a.value) != (0, 0):
        raise Gap("a threshold other than 0")
    return g.add("relu", a.x)


@operation("prelu", "_prelu_kernel")
def _prelu(g: Draft, a: Arguments) -> Value:
    return g.add("prelu", a.x, g.value(a.weight))


@operation("glu")
def _glu(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    axis = axis_of(x, a.dim)
    half = fixed(x, axis) // 2
    value, gate = (g.add("slice", x, axis=axis, start=start, stop=start + half) for start in (0, half))
    return g.add("multiply", value, g.add("sigmoid", gate))


@operation("softmax", "_softmax", "log_softmax", "_log_softmax")
def _softmax(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    return g.add(a.name.lstrip("_"), x, axis=axis_of(x, a.dim))


@operation("neg", "negative")
def _neg(g: Draft, a: Arguments) -> Value:
    return g.affine(g.value(a.x), -1.0)


@operation("square")
def _square(g: Draft, a: Arguments) -> Value:
    return g.add("power", a.x, exponent=2)


@operation("reciprocal")
def _reciprocal(g: Draft, a: Arguments) -> Value:
    return g.add("power", a.x, exponent=-1)


@operation("log2", "log10")
def _log_of_base(g: Draft, a: Arguments) -> Value:
    return g.affine(g.add("log", a.x), 1 / math.log(float(a.name.removeprefix("log"))))


@operation("log1p")
def _log1p(g: Draft, a: Arguments) -> Value:
    return g.add("log", g.affine(g.value(a.x), shift=1.0))


@operation("expm1")
def _expm1(g: Draft, a: Arguments) -> Value:
    return g.affine(g.add("exp", a.x), shift=-1.0)


# --- reductions ------------------------------------------------------------------------------------------------------


@operation("mean")
def _mean(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    axes, keep = axes_of(x, a.dim), bool(a.keepdim)
    if x.is_plain and x.rank > 3 and axes == tuple(range(2, x.rank)):
        return g.add("global_average_pool", x, keep_axes=keep)
    return g.add("mean", x, axes=axes, keep=keep)


@operation("sum", "amax", "amin")
def _reduce(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    return g.add(a.name, x, axes=axes_of(x, a.dim), keep=bool(a.keepdim))


@operation("max", "min")
def _extreme(g: Draft, a: Arguments) -> Any:
    """Over all, along an axis (with the positions as a second output, which is not covered), or of two tensors."""
    if "other" in a:
        return clamped(g, a.x, a.other, None) if a.name == "max" else clamped(g, a.x, None, a.other)
    x = g.value(a.x)
    result = g.add(f"a{a.name}", x, axes=axes_of(x, a.dim), keep=bool(a.keepdim))
    return [result, None] if "dim" in a else result


def _variance(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    unbiased = a.get("unbiased", True)
    correction = a.get("correction", int(unbiased))
    correction = 1 if correction is None else correction
    return g.add("variance", x, axes=axes_of(x, a.dim), keep=bool(a.keepdim), correction=correction)


@operation("var")
def _var(g: Draft, a: Arguments) -> Value:
    return _variance(g, a)


@operation("std")
def _std(g: Draft, a: Arguments) -> Value:
    return g.add("sqrt", _variance(g, a))


@operation("var_mean", "std_mean")
def _var_mean(g: Draft, a: Arguments) -> list[Value]:
    x = g.value(a.x)
    mean = g.add("mean", x, axes=axes_of(x, a.dim), keep=bool(a.keepdim))
    return [_std(g, a) if a.name == "std_mean" else _variance(g, a), mean]


@operation("linalg_vector_norm", "norm")
def _norm(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    order = number_of(2 if (given := a.get("ord", a.p)) is None else given)
    axes, keep = axes_of(x, a.dim), bool(a.keepdim)
    if math.isinf(order):
        return g.add("amax" if order > 0 else "amin", g.add("abs", x), axes=axes, keep=keep)
    return g.add("norm", x, order=order, axes=axes, keep=keep)


@operation("logsumexp")
def _logsumexp(g: Draft, a: Arguments) -> Value:
    """max + log(sum(exp(x - max))), as it does not overflow."""
    x = g.value(a.x)
    axes = axes_of(x, a.dim)
    most = g.add("amax", x, axes=axes, keep=True)
    total = g.add("sum", g.add("exp", g.add("subtract", x, most)), axes=axes, keep=True)
    result = g.add("add", g.add("log", total), most)
    kept = [size for axis, size in enumerate(result.sizes) if a.keepdim or axis not in axes]
    return g.reshape(result, kept)
