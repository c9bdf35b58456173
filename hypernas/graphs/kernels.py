"""CPU kernels for the places where torch's own cost several times what they have to. Results are the same."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["average_pool2d", "depthwise_conv2d"]


def average_pool2d(x: Tensor, kernel: tuple[int, int], stride: Any, padding: Any) -> Tensor:
    """Mean over the part of each window that lies inside the image, as a depthwise convolution.

    torch's own pooling is three to five times slower in channels_last, backward too.
    """
    ones, inverse_counts = _window_constants(x.shape[1], tuple(x.shape[2:]), kernel, stride, padding, x.dtype)
    return F.conv2d(x, ones, None, stride, padding, 1, x.shape[1]) * inverse_counts


@functools.lru_cache(maxsize=512)
def _window_constants(
    channels: int, spatial: tuple[int, ...], kernel: tuple[int, int], stride: Any, padding: Any, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.no_grad():
        ones = torch.ones(channels, 1, *kernel, dtype=dtype)
        counts = F.conv2d(torch.ones(1, 1, *spatial, dtype=dtype), ones[:1], None, stride, padding)
        return ones, 1 / counts


class _DepthwiseConv2d(torch.autograd.Function):
    """The gradients are sums of fast pieces: oneDNN's weight gradient for 5x5 or dilated depthwise kernels is not fast.

    The gradient with respect to the input is a convolution with the flipped kernel (stride 1); that with respect to the
    weight is assembled from 3x3 kernels at shifted inputs, which have a fast path, or tap by tap where the kernel is
    dilated.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding, dilation)
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        size = weight.shape[-1]
        of_x = of_weight = None
        crop = dilation * (size - 1) - padding  # negative where the padding is wider than the kernel
        if ctx.needs_input_grad[0] and stride == 1 and crop >= 0:
            of_x = F.conv2d(g, weight.flip(-1, -2), None, 1, crop, dilation, x.shape[1])
        elif ctx.needs_input_grad[0]:
            of_x = _convolution_backward(g, x, weight, stride, padding, dilation, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            padded = F.pad(x, (padding,) * 4)
            of_weight = (
                _by_taps(padded, g, size, stride, dilation) if dilation > 1 else _by_blocks(padded, g, size, stride)
            )
        return of_x, of_weight, None, None, None


def _convolution_backward(
    g: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        g, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], g.shape[1], mask
    )
    return result


def _by_taps(padded: Tensor, g: Tensor, size: int, stride: int, dilation: int) -> Tensor:
    """One product and sum for each position of the kernel: (channels, 1, size, size)."""
    height, width = ((n - 1) * stride + 1 for n in g.shape[2:])
    x, g = padded.permute(0, 2, 3, 1), g.permute(0, 2, 3, 1)
    taps = [
        (x[:, i : i + height : stride, j : j + width : stride] * g).sum((0, 1, 2))
        for i in range(0, size * dilation, dilation)
        for j in range(0, size * dilation, dilation)
    ]
    return torch.stack(taps, dim=1).view(-1, 1, size, size)


def _by_blocks(padded: Tensor, g: Tensor, size: int, stride: int) -> Tensor:
    """Blocks of 3x3 positions, the last ones overlapping so that they fit: (channels, 1, size, size)."""
    height, width = ((n - 1) * stride + 3 for n in g.shape[2:])
    whole = g.new_empty(g.shape[1], 1, size, size)
    template = g.new_empty(g.shape[1], 1, 3, 3)
    starts = sorted({min(start, size - 3) for start in range(0, size, 3)})
    for i in starts:
        for j in starts:
            window = padded[:, :, i : i + height, j : j + width]
            block = _convolution_backward(g, window, template, stride, 0, 1, [False, True, False])[1]
            whole[:, :, i : i + 3, j : j + 3] = block
    return whole


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
    """Convolution of each channel with its own square kernel of at least 3x3.

    Args:
        x: (batch, channels, height, width).
        weight: (channels, 1, size, size).
    """
    result: Tensor = _DepthwiseConv2d.apply(x, weight, stride, padding, dilation)  # type: ignore[no-untyped-call]
    return result
