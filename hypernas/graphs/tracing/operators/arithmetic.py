"""Arithmetic and masks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hypernas.graphs.packing import pack
from hypernas.graphs.tracing.constants import repeated, scalar
from hypernas.graphs.tracing.draft import Draft
from hypernas.graphs.tracing.operators.table import Arguments, fixed, operation
from hypernas.graphs.tracing.values import Const, Gap, Value

# --- with two operands -----------------------------------------------------------------------------------------------


def _rank(x: Any) -> int:
    return x.rank if isinstance(x, (Value, Const)) else 0


def _operands(x: Any, y: Any) -> tuple[float | None, float | None]:
    """The numbers that the two are, where they are numbers."""
    return scalar(x, _rank(y)), scalar(y, _rank(x))


def number_of(x: Any) -> float:
    number = scalar(x, 0)
    if number is None:
        raise Gap("a factor that is no number")
    return number


def _scaled(g: Draft, x: Any, factor: float) -> Any:
    return x if factor == 1 else g.affine(g.value(x, broadcasts=True), factor)


@operation("add", "add_relu")
def _add(g: Draft, a: Arguments) -> Value:
    alpha = number_of(a.get("alpha", 1))
    sx, sy = _operands(a.x, a.other)
    if sy is not None:
        return g.affine(g.value(a.x), shift=alpha * sy)
    if sx is not None:
        return g.affine(g.value(a.other), alpha, sx)
    return g.add("add", a.x, _scaled(g, a.other, alpha))


@operation("sub", "subtract")
def _sub(g: Draft, a: Arguments) -> Value:
    return _difference(g, a.x, a.other, number_of(a.get("alpha", 1)))


@operation("rsub")
def _rsub(g: Draft, a: Arguments) -> Value:
    alpha = number_of(a.alpha)
    if scalar(a.other, _rank(a.x)) is None and alpha != 1:
        return g.add("subtract", a.other, _scaled(g, a.x, alpha))
    return _difference(g, a.other, a.x, alpha)


def _difference(g: Draft, x: Any, y: Any, alpha: float) -> Value:
    sx, sy = _operands(x, y)
    if sy is not None:
        return g.affine(g.value(x), shift=-alpha * sy)
    if sx is not None:
        return g.affine(g.value(y), -alpha, sx)
    return g.add("subtract", x, _scaled(g, y, alpha))


@operation("mul", "multiply")
def _mul(g: Draft, a: Arguments) -> Value:
    sx, sy = _operands(a.x, a.other)
    if sy is not None:
        return g.affine(g.value(a.x), sy)
    if sx is not None:
        return g.affine(g.value(a.other), sx)
    return g.add("multiply", a.x, a.other)


@operation("div", "divide", "true_divide")
def _div(g: Draft, a: Arguments) -> Value:
    if a.rounding_mode is not None:
        raise Gap("division that rounds")
    sx, sy = _operands(a.x, a.other)
    if sy is not None and sy != 0:
        return g.affine(g.value(a.x), 1 / sy)
    if sx is not None:
        return g.affine(g.add("power", a.other, exponent=-1), sx)
    return g.add("divide", a.x, a.other)


@operation("maximum", "fmax")
def _maximum(g: Draft, a: Arguments) -> Value:
    return clamped(g, a.x, a.other, None)


@operation("minimum", "fmin")
def _minimum(g: Draft, a: Arguments) -> Value:
    return clamped(g, a.x, None, a.other)


@operation("clamp", "clip", "hardtanh")
def _clamp(g: Draft, a: Arguments) -> Value:
    names = ("min_val", "max_val") if "min_val" in a else ("min", "max")
    return clamped(g, a.x, *(a[name] for name in names))


@operation("clamp_min")
def _clamp_min(g: Draft, a: Arguments) -> Value:
    return clamped(g, a.x, a.min, None)


@operation("clamp_max")
def _clamp_max(g: Draft, a: Arguments) -> Value:
    return clamped(g, a.x, None, a.max)


def clamped(g: Draft, x: Any, least: Any, most: Any) -> Value:
    """By numbers, or element by element."""
    if not isinstance(x, Value) and isinstance(least if most is None else most, Value):
        x, least, most = (least, x, None) if most is None else (most, None, x)
    low, high = (None if limit is None else scalar(limit, _rank(x)) for limit in (least, most))
    x = g.value(x)
    if least is not None and low is None:
        x = g.add("maximum", x, least)
    if most is not None and high is None:
        x = g.add("minimum", x, most)
    if (low, high) == (0, 6):
        return g.add("relu6", x)
    if low == 0 and high is None:
        return g.add("relu", x)
    return x if low is None and high is None else g.add("clamp", x, least=low, most=high)


@operation("pow")
def _pow(g: Draft, a: Arguments) -> Value:
    base, exponent = _operands(a.x, a.exponent)
    if exponent is not None:
        return g.add("power", a.x, exponent=exponent)
    if base is not None and base > 0:
        return g.add("exp", g.affine(g.value(a.exponent), math.log(base)))
    x = g.value(a.x)
    if not _is_positive(g, x):
        raise Gap("a power whose exponent is a tensor, of what may be negative")
    return g.add("exp", g.add("multiply", g.add("log", x), a.exponent))


KEEPS_SIGN = ("average_pool", "global_average_pool", "max_pool", "mean", "sum", "amax", "amin", "power", "reshape")


def _is_positive(g: Draft, x: Value) -> bool:
    """Whether no number in x can be 0 or less, as in generalised-mean pooling (Radenovic et al. 2018)."""
    node = g.made_by(x, "exp", "sigmoid", "softplus", "clamp", "flatten", "permute", *KEEPS_SIGN)
    if node is None:
        return False
    if node.op == "clamp":
        return (node.attributes["least"] or 0) > 0
    return node.op in ("exp", "sigmoid", "softplus") or _is_positive(g, g.value_of(node.inputs[0]))


@operation("addcmul")
def _addcmul(g: Draft, a: Arguments) -> Value:
    return g.add("add", a.x, _scaled(g, g.add("multiply", a.tensor1, a.tensor2), number_of(a.get("value", 1))))


@operation("addcdiv")
def _addcdiv(g: Draft, a: Arguments) -> Value:
    return g.add("add", a.x, _scaled(g, g.add("divide", a.tensor1, a.tensor2), number_of(a.get("value", 1))))


@operation("lerp")
def _lerp(g: Draft, a: Arguments) -> Value:
    """x + weight (end - x)."""
    step = g.add("subtract", a.end, a.x)
    weight = scalar(a.weight, step.rank)
    return g.add("add", a.x, g.add("multiply", step, a.weight) if weight is None else g.affine(step, weight))


# --- masks -----------------------------------------------------------------------------------------------------------


def _mask(condition: Any) -> Tensor:
    if not isinstance(condition, Const):
        raise Gap("a mask that depends on the input")
    found = repeated(condition)
    if found.factor != 1:
        raise Gap("a mask for several parts of a batch")
    return found.tensor.to(torch.bool)


def _fill(g: Draft, x: Any, mask: Tensor, value: Any) -> Value:
    number = scalar(value, _rank(x))
    if number is None:
        return g.add("add", _fill(g, x, mask, 0.0), _fill(g, value, ~mask, 0.0))
    if math.isinf(number):  # which JSON cannot hold
        return g.add("add", x, g.constant(torch.zeros(mask.shape).masked_fill(mask, number)))
    return g.add("masked_fill", x, mask=pack(mask), value=number)


@operation("masked_fill")
def _masked_fill(g: Draft, a: Arguments) -> Value:
    return _fill(g, a.x, _mask(a.mask), a.value)


@operation("where")
def _where(g: Draft, a: Arguments) -> Value:
    mask = _mask(a.condition)
    if scalar(a.x, mask.dim()) is not None:
        return _fill(g, a.other, mask, a.x)
    return _fill(g, a.x, ~mask, a.other)


@operation("index_put")
def _index_put(g: Draft, a: Arguments) -> Value:
    """``x[mask] = number``."""
    if a.accumulate or len(a.indices) != 1 or not isinstance(a.indices[0], Const):
        raise Gap("writing at indices")
    mask = _mask(a.indices[0]) if a.indices[0].at[0].dtype == torch.bool else None
    if mask is None or scalar(a["values"], 0) is None:
        raise Gap("writing at indices")
    return _fill(g, a.x, mask.reshape(*mask.shape, *[1] * (_rank(a.x) - mask.dim())), a["values"])


@operation("tril", "triu")
def _triangle(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    ones = torch.ones(fixed(x, x.rank - 2), fixed(x, x.rank - 1))
    upper = a.name == "triu"
    kept = ones.triu(a.diagonal) if upper else ones.tril(a.diagonal)
    return _fill(g, x, kept == 0, 0.0)
