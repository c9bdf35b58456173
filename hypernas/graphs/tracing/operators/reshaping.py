"""Operations that change axes and keep the numbers: reshaping, permuting, repeating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hypernas.graphs.tracing.draft import Draft
from hypernas.graphs.tracing.operators.table import Arguments, axis_of, operation
from hypernas.graphs.tracing.values import BATCHES, Batch, Const, Gap, Size, Value, at, pair_size, product

# --- what stays as it is ---------------------------------------------------------------------------------------------


@operation("contiguous", "clone", "alias", "detach", "lift_fresh", "lift_fresh_copy", "positive", "conj", "real")
def _same(g: Draft, a: Arguments) -> Value:
    return g.value(a.x)


@operation("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def _dropout(g: Draft, a: Arguments) -> Any:
    if a.train and a.p:
        raise Gap("dropout that is always on")
    return [g.value(a.x), None] if a.name == "native_dropout" else g.value(a.x)


FLOATS = (None, torch.float32, torch.float64)  # float64 only adds digits


@operation("to", "_to_copy", "type_as", "float", "double")
def _to(g: Draft, a: Arguments) -> Value:
    dtype = a.other.at[0].dtype if isinstance(a.other, Const) else a.dtype
    if dtype not in FLOATS:
        raise Gap(f"a conversion to {str(dtype).removeprefix('torch.')}")
    return g.value(a.x)


# --- reshaping -------------------------------------------------------------------------------------------------------


def _resolved(x: Value | Const, wanted: Sequence[Any], part: slice = slice(None)) -> list[Size]:
    """Sizes with -1 worked out, for all axes of x or the ``part`` of them that they replace."""
    whole = product(x.sizes[part])
    seen = []
    for which in range(len(BATCHES)):
        sizes = [int(at(size, which)) for size in wanted]
        known = 1
        for size in sizes:
            known *= 1 if size == -1 else size
        seen.append([at(whole, which) // known if size == -1 else size for size in sizes])
    return [pair_size(small, large) for small, large in zip(*seen, strict=True)]


@operation("view", "reshape", "_unsafe_view", "view_copy")
def _reshape(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    if isinstance(a.dtype, torch.dtype):
        raise Gap("the bytes of one type read as another")
    return g.reshape(x, _resolved(x, a["size"] if "size" in a else a["shape"]))


@operation("view_as", "reshape_as")
def _view_as(g: Draft, a: Arguments) -> Value:
    return g.reshape(g.value(a.x), a.other.sizes)


@operation("flatten")
def _flatten(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    first, last = axis_of(x, a.start_dim, batch=True), axis_of(x, a.end_dim, batch=True)
    sizes = x.sizes
    return g.reshape(x, [*sizes[:first], product(sizes[first : last + 1]), *sizes[last + 1 :]])


@operation("unflatten")
def _unflatten(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    axis = axis_of(x, a.dim, batch=True)
    parts = _resolved(x, a.sizes, slice(axis, axis + 1))
    return g.reshape(x, [*x.sizes[:axis], *parts, *x.sizes[axis + 1 :]])


@operation("squeeze")
def _squeeze(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    given = range(x.rank) if a.dim is None else [a.dim] if isinstance(a.dim, int) else a.dim
    axes = {axis_of(x, axis, batch=True) for axis in given}
    return g.reshape(x, [size for axis, size in enumerate(x.sizes) if axis not in axes or size != 1])


@operation("unsqueeze")
def _unsqueeze(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    axis = a.dim % (x.rank + 1)
    return g.reshape(x, [*x.sizes[:axis], 1, *x.sizes[axis:]])


@operation("permute")
def _permute(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    return g.permute(x, [axis_of(x, axis, batch=True) for axis in a.dims])


@operation("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint", "matrix_H", "mH")
def _transpose(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    axes = list(range(x.rank))
    pair = [a[name] for name in ("dim0", "dim1", "axis0", "axis1") if name in a]
    if a.name == "numpy_T":
        return g.permute(x, axes[::-1])
    if x.rank < 2:
        return x
    i, j = (axis_of(x, axis, batch=True) for axis in pair or (-2, -1))
    axes[i], axes[j] = j, i
    return g.permute(x, axes)


@operation("movedim", "moveaxis")
def _movedim(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    sources, targets = (
        [axis_of(x, axis, batch=True) for axis in ([axes] if isinstance(axes, int) else axes)]
        for axes in (a.source, a.destination)
    )
    rest = [axis for axis in range(x.rank) if axis not in sources]
    order = dict(zip(targets, sources, strict=True))
    return g.permute(x, [order[axis] if axis in order else rest.pop(0) for axis in range(x.rank)])


@operation("expand")
def _expand(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    new = len(a["size"]) - x.rank
    known = [1] * new + x.sizes
    sizes = [known[axis] if size == -1 else pair_size(at(size, 0), at(size, 1)) for axis, size in enumerate(a["size"])]
    return g.expand(x, sizes)


@operation("expand_as")
def _expand_as(g: Draft, a: Arguments) -> Value:
    return g.expand(g.value(a.x), a.other.sizes)


@operation("copy")
def _copy(g: Draft, a: Arguments) -> Value:
    """``x.copy_(src)``: only the shape of x matters."""
    return g.expand(g.value(a.src), a.x.sizes)


@operation("repeat", "tile")
def _repeat(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    times = list(a.get("repeats", a.dims))
    n = max(len(times), x.rank)
    times = [1] * (n - len(times)) + times
    x = g.reshape(x, [1] * (n - x.rank) + x.sizes)
    for axis, count in enumerate(times):
        if not isinstance(count, int):  # once for each sample: [size] -> [batch, size] -> [batch * size]
            factor = pair_size(*count)
            inner = [*x.sizes[:axis], 1, *x.sizes[axis:]]
            wide = [*x.sizes[:axis], factor, *x.sizes[axis:]]
            sizes = [*x.sizes[:axis], product([factor, x.sizes[axis]]), *x.sizes[axis + 1 :]]
            x = g.reshape(g.expand(g.reshape(x, inner), wide), sizes)
            times[axis] = 1
    if any(count != 1 and isinstance(size, Batch) for count, size in zip(times, x.sizes, strict=True)):
        raise Gap("it repeats the samples of a batch")
    return x if set(times) <= {1} else g.add("repeat", x, times=tuple(times))
