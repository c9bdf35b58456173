"""Pooling, interpolation and patches."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from hypernas.graphs.tracing.draft import Draft
from hypernas.graphs.tracing.operators.table import Arguments, fixed, ints, one_or_all, operation
from hypernas.graphs.tracing.values import Gap, Value

LEAST = torch.finfo(torch.float32).min


def _spatial(x: Value, n: int) -> tuple[int, ...]:
    if x.rank != n + 2:
        raise Gap("pooling without a batch axis")
    return tuple(fixed(x, 2 + i) for i in range(n))


class _Window(NamedTuple):
    """Where a pool looks, for each spatial axis.

    Attributes:
        beyond: how far the last window reaches beyond the padded image, where ``ceil_mode`` has one that does.
    """

    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    beyond: tuple[int, ...]


def _window(x: Value, a: Arguments) -> _Window:
    n = len(a.kernel_size) if len(a.kernel_size) > 1 else x.rank - 2
    kernel = ints(a.kernel_size, n)
    stride = ints(a.stride, n) if a.stride else kernel
    given = zip(_spatial(x, n), kernel, stride, ints(a.padding, n), strict=True)
    return _Window(*zip(*(_along(*axis, ceil=bool(a.ceil_mode)) for axis in given), strict=True))


def _along(size: int, k: int, s: int, p: int, *, ceil: bool) -> tuple[int, int, int, int, int]:
    """One axis, with torch's rule for ``ceil_mode``; a window that is larger than all there is takes just that."""
    if not ceil:
        return size, k, s, p, 0
    n = -(-(size + 2 * p - k) // s) + 1
    if (n - 1) * s >= size + p:  # the last window starts inside the image or the padding before it
        n -= 1
    if n <= 1 and k > size + 2 * p:
        return size, size + 2 * p, 1, p, 0
    return size, k, s, p, max(0, (n - 1) * s + k - (size + 2 * p))


def _padded(g: Draft, x: Value, before: tuple[int, ...], after: tuple[int, ...], value: float) -> Value:
    if not any(before) and not any(after):
        return x
    sides = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return g.add("pad", x, padding=tuple(sides), value=value)


def _sizes(kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> dict[str, Any]:
    return {"kernel": one_or_all(kernel), "stride": one_or_all(stride), "padding": one_or_all(padding)}


@operation("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(g: Draft, a: Arguments) -> Value:
    x = g.value(a.x)
    w = _window(x, a)
    if set(a.dilation) != {1}:
        raise Gap("dilated max pooling")
    x = _padded(g, x, (0,) * len(w.sizes), w.beyond, LEAST)
    return g.add("max_pool", x, **_sizes(w.kernel, w.stride, w.padding))


@operation("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool_with_indices(g: Draft, a: Arguments) -> list[Value | None]:
    return [_max_pool(g, a), None]


@operation("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _average_pool(g: Draft, a: Arguments) -> Value:
    """The primitive does not count padding; where torch does, the padding is made of zeros that are counted.

    What else torch divides by (``ceil_mode``, ``divisor_override``) is a factor for each window.
    """
    x = g.value(a.x)
    w = _window(x, a)
    if not any(w.beyond) and a.divisor_override is None and not (a.count_include_pad and any(w.padding)):
        if w.kernel == w.sizes and not any(w.padding):
            return g.add("global_average_pool", x, keep_axes=True)
        return g.add("average_pool", x, **_sizes(w.kernel, w.stride, w.padding))
    after = tuple(p + b for p, b in zip(w.padding, w.beyond, strict=True))
    padded = _padded(g, x, w.padding, after, 0.0)
    mean = g.add("average_pool", padded, **_sizes(w.kernel, w.stride, (0,) * len(after)))
    factor = _correction(a, w)
    if bool((factor == factor.flatten()[0]).all()):
        return g.affine(mean, float(factor.flatten()[0]))
    return g.add("multiply", mean, g.constant(factor[None, None]))


def _correction(a: Arguments, window: _Window) -> torch.Tensor:
    """Number of values in a window over torch's divisor, for each window: (*spatial)."""
    counts = torch.ones(())
    for size, k, s, p, beyond in zip(*window, strict=True):
        first, last = (0, size + 2 * p) if a.count_include_pad else (p, p + size)
        starts = range(0, size + 2 * p + beyond - k + 1, s)
        counted = torch.tensor([float(min(start + k, last) - max(start, first)) for start in starts])
        counts = counts[..., None] * counted
    whole = math.prod(window.kernel)
    return torch.full_like(counts, whole / a.divisor_override) if a.divisor_override else whole / counts


@operation("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def _adaptive_average(g: Draft, a: Arguments) -> Value:
    x, n = g.value(a.x), len(a.output_size)
    sizes, wanted = _spatial(x, n), ints(a.output_size, n)
    if set(wanted) == {1}:
        return g.add("global_average_pool", x, keep_axes=True)
    if sizes == wanted:
        return x
    if all(size % out == 0 for size, out in zip(sizes, wanted, strict=True)):
        kernel = tuple(size // out for size, out in zip(sizes, wanted, strict=True))
        return g.add("average_pool", x, **_sizes(kernel, kernel, (0,) * n))
    return g.add("adaptive_average_pool", x, size=wanted)


@operation("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_max(g: Draft, a: Arguments) -> list[Value | None]:
    x, n = g.value(a.x), len(a.output_size)
    _spatial(x, n)
    return [g.add("adaptive_max_pool", x, size=ints(a.output_size, n)), None]


# --- interpolation ---------------------------------------------------------------------------------------------------

MODES = {
    "upsample_nearest1d": "nearest",
    "upsample_nearest2d": "nearest",
    "upsample_nearest3d": "nearest",
    "_upsample_nearest_exact1d": "nearest-exact",
    "_upsample_nearest_exact2d": "nearest-exact",
    "_upsample_nearest_exact3d": "nearest-exact",
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
}


def _resize(g: Draft, a: Arguments, mode: str) -> Value:
    x = g.value(a.x)
    sizes = _spatial(x, x.rank - 2)
    align = bool(a.align_corners) if "align_corners" in a else None
    if a.output_size is not None:
        wanted = ints(a.output_size, len(sizes))
        scales = [a[name] for name in ("scales", "scales_d", "scales_h", "scales_w") if a.get(name) is not None]
    else:
        scales = list(a.scale_factors)
        wanted = tuple(math.floor(size * scale) for size, scale in zip(sizes, scales, strict=True))
    if scales and not align and any(size * s != out for size, s, out in zip(sizes, scales, wanted, strict=False)):
        raise Gap("interpolation by a factor that gives no whole size")
    if wanted == sizes:
        return x
    return g.add("resize", x, size=wanted, mode=mode, align_corners=align)


def _register(name: str, mode: str) -> None:
    operation(name)(lambda g, a: _resize(g, a, mode))


for _name, _mode in MODES.items():
    _register(_name, _mode)


@operation("im2col")
def _im2col(g: Draft, a: Arguments) -> Value:
    names = {"kernel": "kernel_size", "stride": "stride", "padding": "padding", "dilation": "dilation"}
    sizes = {name: one_or_all(ints(a[given], 2)) for name, given in names.items()}
    return g.add("unfold", a.x, **sizes)


@operation("col2im")
def _col2im(g: Draft, a: Arguments) -> Value:
    """``F.fold`` of patches side by side: (batch, channels * patch, n) with both grids interleaved."""
    x, size, kernel = g.value(a.x), ints(a.output_size, 2), ints(a.kernel_size, 2)
    apart = ints(a.stride, 2) == kernel and not any(ints(a.padding, 2)) and set(ints(a.dilation, 2)) == {1}
    if not apart or x.rank != 3 or any(out % k for out, k in zip(size, kernel, strict=True)):
        raise Gap("patches that overlap")
    grid = [out // k for out, k in zip(size, kernel, strict=True)]
    batch, channels = x.sizes[0], fixed(x, 1) // math.prod(kernel)
    parts = g.permute(g.reshape(x, [batch, channels, *kernel, *grid]), [0, 1, 4, 2, 5, 3])
    return g.reshape(parts, [batch, channels, *size])


@operation("pixel_shuffle")
def _pixel_shuffle(g: Draft, a: Arguments) -> Value:
    return g.add("pixel_shuffle", a.x, factor=a.upscale_factor)


@operation("pixel_unshuffle")
def _pixel_unshuffle(g: Draft, a: Arguments) -> Value:
    return g.add("pixel_unshuffle", a.x, factor=a.downscale_factor)
