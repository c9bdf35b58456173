"""Operations that cut, join, pick, shift and pad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hypernas.graphs.packing import pack
from hypernas.graphs.tracing.constants import Repeated, repeated
from hypernas.graphs.tracing.draft import Draft
from hypernas.graphs.tracing.operators.table import Arguments, axis_of, fixed, operation
from hypernas.graphs.tracing.values import BATCHES, Batch, Const, Gap, Size, Value, at, product

# --- cutting ---------------------------------------------------------------------------------------------------------


def _cut(g: Draft, x: Value, axis: int, start: Any, stop: Any, step: int = 1) -> Value:
    seen = {
        slice(at(start, which), at(stop, which), step).indices(at(x.sizes[axis], which))
        for which in range(len(BATCHES))
    }
    whole = {(0, at(x.sizes[axis], which), 1) for which in range(len(BATCHES))}
    if seen == whole:
        return x
    if len(seen) > 1 or isinstance(x.sizes[axis], Batch):
        raise Gap("it picks some samples of the batch")
    first, last, _ = seen.pop()
    return g.add("slice", x, axis=axis, start=first, stop=max(first, last), step=step)


@operation("slice", "narrow", "slice_copy")
def _slice(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    axis = axis_of(x, a.dim, batch=True)
    if a.name == "narrow":
        stop = a.start + a.length if isinstance(a.start, int) and isinstance(a.length, int) else None
        if stop is None:
            raise Gap("sizes that depend on the batch")
        return _cut(g, x, axis, a.start, stop)
    return _cut(g, x, axis, a.start, a.end, a.step)


@operation("select", "select_copy")
def _select(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    axis = axis_of(x, a.dim)
    if not isinstance(a.index, int):
        raise Gap("an index that depends on the batch")
    return g.add("select", x, axis=axis, index=a.index % fixed(x, axis))


@operation("unbind")
def _unbind(g: Draft, a: Arguments) -> list[Value]:
    x = g.value(a.x)
    axis = axis_of(x, a.dim)
    return [g.add("select", x, axis=axis, index=i) for i in range(fixed(x, axis))]


@operation("split", "split_with_sizes", "chunk", "tensor_split", "split_copy", "split_with_sizes_copy")
def _split(g: Draft, a: Arguments) -> list[Value]:
    x = g.value(a.x)
    axis = axis_of(x, a.dim)
    size = fixed(x, axis)
    if a.name == "chunk":
        starts = list(range(0, size, -(-size // a.chunks)))
    elif a.name == "tensor_split":
        sections = a.sections
        starts = (
            [0, *a.indices]
            if sections is None
            else [i * (size // sections) + min(i, size % sections) for i in range(sections)]
        )
    else:
        given = next(a[name] for name in ("split_sizes", "split_size", "sizes") if name in a)
        lengths = [given] * -(-size // given) if isinstance(given, int) else given
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
    stops = [*starts[1:], size]
    return [_cut(g, x, axis, start, stop) for start, stop in zip(starts, stops, strict=True)]


# --- joining ---------------------------------------------------------------------------------------------------------


def _joined(g: Draft, values: list[Value], axis: int) -> Value:
    if len(values) == 1:
        return values[0]
    if any(isinstance(value.sizes[axis], Batch) for value in values):
        raise Gap("it joins batches")
    return g.add("concat", *values, axis=axis - 1)  # the primitive does not count the batch


@operation("cat", "concat", "concatenate")
def _cat(g: Draft, a: Arguments) -> Value:
    given = [x for x in a.tensors if x.sizes != [0]]  # torch still takes empty ones
    values = [g.value(x) for x in given]
    return _joined(g, values, axis_of(values[0], a.dim, batch=True))


@operation("stack")
def _stack(g: Draft, a: Arguments) -> Value:
    values = [g.value(x) for x in a.tensors]
    axis = a.dim % (values[0].rank + 1)
    return _joined(g, [g.reshape(x, [*x.sizes[:axis], 1, *x.sizes[axis:]]) for x in values], axis)


@operation("slice_scatter")
def _slice_scatter(g: Draft, a: Arguments) -> Value:
    """x with a slice replaced: what ``x[..., 2:5] = y`` becomes."""
    x, src = g.value(a.x), g.value(a.src)
    axis = axis_of(x, a.dim, batch=True)
    if isinstance(x.sizes[axis], Batch):
        if _cut(g, x, axis, a.start, a.end, a.step) is not x:
            raise Gap("it writes into some samples of the batch")
        return src
    first, last, step = slice(a.start, a.end, a.step).indices(fixed(x, axis))
    if step != 1:
        raise Gap("it writes with a step")
    return _replaced(g, x, src, axis, first, last)


@operation("select_scatter")
def _select_scatter(g: Draft, a: Arguments) -> Value:
    x, src = g.value(a.x), g.value(a.src)
    axis = axis_of(x, a.dim)
    index = a.index % fixed(x, axis)
    return _replaced(g, x, g.reshape(src, [*src.sizes[:axis], 1, *src.sizes[axis:]]), axis, index, index + 1)


def _replaced(g: Draft, x: Value, src: Value, axis: int, first: int, last: int) -> Value:
    size = fixed(x, axis)
    parts = [_cut(g, x, axis, 0, first)] if first else []
    parts.append(src)
    if last < size:
        parts.append(_cut(g, x, axis, last, size))
    return _joined(g, parts, axis)


# --- picking ---------------------------------------------------------------------------------------------------------


def _take(g: Draft, x: Value, axis: int, indices: Tensor) -> Value:
    """x at whole numbers along an axis; ``indices`` of any shape takes the place of the axis."""
    size = fixed(x, axis)
    flat = indices.flatten().to(torch.int64)
    flat = torch.where(flat < 0, flat + size, flat)
    if not torch.equal(flat, torch.arange(size)):
        x = g.add("take", x, axis=axis, indices=pack(flat))
    return g.reshape(x, [*x.sizes[:axis], *indices.shape, *x.sizes[axis + 1 :]])


def _for_each_sample(g: Draft, x: Value, axis: int, found: Repeated) -> Value:
    """x at an axis of size 1, or of some size for each sample, repeated for the batch."""
    if found.axis is None:
        return x
    sizes = x.sizes
    sizes[axis + found.axis] = Batch(found.factor)
    return g.expand(x, sizes)


def _whole_numbers(index: Any) -> Repeated:
    if not isinstance(index, Const):
        raise Gap("indices that depend on the input")
    return repeated(index)


@operation("embedding")
def _embedding(g: Draft, a: Arguments) -> Value:
    found = _whole_numbers(a.indices)
    return _for_each_sample(g, _take(g, g.value(a.weight), 0, found.tensor), 0, found)


@operation("index_select")
def _index_select(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    return _take(g, x, axis_of(x, a.dim), _whole_numbers(a["index"]).tensor)


@operation("index", "_unsafe_index")
def _index(g: Draft, a: Arguments) -> Value:
    """Indexing by constants: the axes that they pick from are made one, next to each other, and taken from."""
    x = g.value(a.x)
    found: list[tuple[int, Repeated]] = []
    axis = 0
    for index in a.indices:
        if index is None:
            axis += 1
            continue
        one = _whole_numbers(index)
        if one.tensor.dtype in (torch.bool, torch.uint8):  # a mask covers as many axes as it has
            if one.axis is not None:
                raise Gap("a mask that covers the batch")
            found.extend((axis + i, Repeated(places)) for i, places in enumerate(one.tensor.nonzero(as_tuple=True)))
            axis += one.tensor.dim()
        else:
            found.append((axis, one))
            axis += 1
    axes = [axis for axis, _ in found]
    first = axes[0]
    if axes != list(range(first, first + len(axes))):  # then torch puts what is picked first
        rest = [axis for axis in range(x.rank) if axis not in axes]
        x, first = g.permute(x, axes + rest), 0
    sizes = [fixed(x, first + i) for i in range(len(axes))]
    indices, batch = _linear(found, sizes)
    x = g.reshape(x, [*x.sizes[:first], *_merged(sizes), *x.sizes[first + len(axes) :]])
    return _for_each_sample(g, _take(g, x, first, indices), first, batch)


def _merged(sizes: list[int]) -> list[Size]:
    return [product(sizes)]


def _linear(found: list[tuple[int, Repeated]], sizes: list[int]) -> tuple[Tensor, Repeated]:
    """Positions in the merged axes, and where the batch is among the axes of the indices."""
    tensors = torch.broadcast_tensors(*(one.tensor for _, one in found))  # type: ignore[no-untyped-call]
    linear = torch.zeros_like(tensors[0], dtype=torch.int64)
    for tensor, size in zip(tensors, sizes, strict=True):
        linear = linear * size + torch.where(tensor < 0, tensor + size, tensor)
    batches = {(one.axis - one.tensor.dim(), one.factor) for _, one in found if one.axis is not None}
    if len(batches) > 1:
        raise Gap("indices that differ between the samples of a batch")
    if not batches:
        return linear, Repeated(linear)
    ((axis, factor),) = batches
    return linear, Repeated(linear, axis + linear.dim(), factor)


@operation("repeat_interleave")
def _repeat_interleave(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    if not isinstance(a.repeats, int) or a.dim is None:
        raise Gap("repeating by numbers that are not fixed")
    axis = axis_of(x, a.dim)
    return _take(g, x, axis, torch.arange(fixed(x, axis)).repeat_interleave(a.repeats))


@operation("unfold")
def _unfold(g: Draft, a: Arguments) -> Value:
    """``Tensor.unfold``: windows along an axis, their contents as a new last axis."""
    x = g.value(a.x)
    axis = axis_of(x, a.dimension)
    starts = torch.arange(0, fixed(x, axis) - a["size"] + 1, a.step)
    windows = _take(g, x, axis, starts[:, None] + torch.arange(a["size"]))
    order = [i for i in range(windows.rank) if i != axis + 1]
    return g.permute(windows, [*order, axis + 1])


# --- shifting and padding --------------------------------------------------------------------------------------------


@operation("flip")
def _flip(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    return g.add("flip", x, axes=tuple(axis_of(x, axis) for axis in a.dims))


@operation("roll")
def _roll(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    axes = tuple(axis_of(x, axis) for axis in a.dims)
    if not axes or not all(isinstance(shift, int) for shift in a.shifts):
        raise Gap("it works across the samples of a batch")
    return g.add("roll", x, shifts=tuple(a.shifts), axes=axes)


PADDINGS = {"reflection": "reflect", "replication": "replicate"}


@operation(
    "pad",
    "constant_pad_nd",
    *(f"{name}_pad{n}d" for name in PADDINGS for n in (1, 2, 3)),
)
def _pad(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    padding = tuple(a.get("pad", a.padding))
    if not any(padding):
        return x
    touched = {x.rank - 1 - i // 2 for i, amount in enumerate(padding) if amount}
    for axis in touched:
        fixed(x, axis)
    mode = next((mode for name, mode in PADDINGS.items() if a.name.startswith(name)), a.mode or "constant")
    value = float(a.value) if a.value is not None else 0.0
    return g.add("pad", x, padding=padding, mode=mode, value=value)


@operation("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(g: Draft, a: Arguments) -> Value:
    """Zhang et al. 2018, figure 1: channels as (groups, n), transposed."""
    x = g.value(a.x)
    batch, channels, *spatial = x.sizes
    parts = g.reshape(x, [batch, a.groups, fixed(x, 1) // a.groups, *spatial])
    turned = g.permute(parts, [0, 2, 1, *range(3, parts.rank)])
    return g.reshape(turned, [batch, channels, *spatial])
