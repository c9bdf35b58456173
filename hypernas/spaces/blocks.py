"""Convolutional blocks in the styles of published networks, for spaces that mix them.

A block takes an image ``x`` (channels, height, width) and gives one of ``channels`` channels, its sides divided by
``stride``. Nodes are laid out as in PyTorch modules of these networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hypernas.graphs.builder import Builder
from hypernas.graphs.primitives import Shape

__all__ = ["BLOCKS", "Block", "Style", "activate", "branch_scale", "convolve", "dense", "normalize", "squeeze"]


@dataclass(frozen=True)
class Style:
    """What the blocks of one network have in common.

    Attributes:
        norm: ``batch``, ``group`` (of ``norm_groups`` groups), ``layer`` (over channels) or ``none``.
        activation: a primitive.
        bias: whether convolutions have one.
        convolution: ``full``, ``grouped`` (in ``groups`` groups), ``dilated`` (by 2) or ``separable``; only of the
            first spatial convolution of a block.
        gate: of squeeze and excitation; ``none`` for blocks without.
        squeeze: squeeze and excitation by ``linear`` layers or ``conv``: 1x1 convolutions.
        scale: of residual branches: ``none``, ``fixed`` (one half), ``scalar`` or ``channel`` (learnt).
        damping: a fixed number that residual branches are multiplied by beside that (Brock et al. 2021, alpha).
        expansion: channels inside an inverted residual, or after a bottleneck, in units of those outside (inside).
    """

    norm: str = "batch"
    norm_groups: int = 1
    activation: str = "relu"
    bias: bool = False
    convolution: str = "full"
    groups: int = 1
    gate: str = "none"
    squeeze: str = "conv"
    scale: str = "none"
    damping: float = 1.0
    expansion: int = 4


Block = Callable[[Builder, str, int, int, int, Style], str]  # (builder, x, channels, kernel, stride, style) -> y


def normalize(g: Builder, x: str, style: Style) -> str:
    if style.norm == "batch":
        return g.batch_norm(x)
    if style.norm == "group":
        return g.group_norm(x, math.gcd(style.norm_groups, g.shape(x)[0]))
    if style.norm == "layer":  # channels last, as in ConvNeXt
        x = g.layer_norm(g.op("permute", x, axes=(0, 2, 3, 1)))
        return g.op("permute", x, axes=(0, 3, 1, 2))
    return x


def activate(g: Builder, x: str, style: Style) -> str:
    return g.op(style.activation, x)


def convolve(g: Builder, x: str, channels: int, kernel: int, stride: int, style: Style) -> str:
    """A convolution of the style's kind; 1x1 convolutions are neither dilated nor separable."""
    before = g.shape(x)[0]
    if style.convolution == "separable" and kernel > 1:  # MobileNet (Howard et al. 2017)
        x = g.conv(x, before, kernel=kernel, stride=stride, groups=before, bias=style.bias, name="depthwise")
        return g.conv(activate(g, normalize(g, x, style), style), channels, bias=style.bias, name="pointwise")
    dilation = 2 if style.convolution == "dilated" and kernel > 1 else 1
    groups = math.gcd(style.groups, before, channels) if style.convolution == "grouped" else 1
    return g.conv(x, channels, kernel=kernel, stride=stride, dilation=dilation, groups=groups, bias=style.bias)


def squeeze(g: Builder, x: str, style: Style) -> str:
    """Squeeze and excitation (Hu et al. 2018) with a quarter of the channels inside."""
    if style.gate == "none":
        return x
    channels = g.shape(x)[0]
    inside = max(1, channels // 4)
    with g.scope("squeeze"):
        s = g.op("global_average_pool", x, keep_axes=style.squeeze == "conv", name="pool")
        if style.squeeze == "conv":
            s = g.conv(g.relu(g.conv(s, inside, bias=True)), channels, bias=True)
        else:
            s = g.linear(g.relu(g.linear(s, inside)), channels)
        s = g.op(style.gate, s)
        if style.squeeze == "linear":
            s = g.op("reshape", s, shape=(-1, channels, 1, 1))
        return g.op("multiply", x, s)


def branch_scale(g: Builder, x: str, kind: str, per_channel: Shape) -> str:
    """The branch of a residual block times a number: fixed, learnt, or learnt for each channel."""
    if kind == "none":
        return x
    if kind == "fixed":
        return g.op("affine", x, scale=0.5)
    gain = g.parameter(per_channel if kind == "channel" else (1,), "scale", "gain")
    return g.op("multiply", x, gain)


def _scaled(g: Builder, branch: str, style: Style) -> str:
    if style.damping != 1:
        branch = g.op("affine", branch, scale=style.damping)
    return branch_scale(g, branch, style.scale, (g.shape(branch)[0], 1, 1))


def _merge(g: Builder, branch: str, shortcut: str, style: Style) -> str:
    return g.op("add", _scaled(g, squeeze(g, branch, style), style), shortcut)


def _shortcut(g: Builder, x: str, channels: int, stride: int, style: Style) -> str:
    if stride == 1 and g.shape(x)[0] == channels:
        return x
    with g.scope("shortcut"):
        return normalize(g, g.conv(x, channels, stride=stride, bias=style.bias), style)


def plain(g: Builder, x: str, channels: int, kernel: int, stride: int, style: Style) -> str:
    """A layer of VGG (Simonyan and Zisserman 2015)."""
    return squeeze(g, activate(g, normalize(g, convolve(g, x, channels, kernel, stride, style), style), style), style)


def residual(g: Builder, x: str, channels: int, kernel: int, stride: int, style: Style) -> str:
    """The basic block of ResNet (He et al. 2016)."""
    y = activate(g, normalize(g, convolve(g, x, channels, kernel, stride, style), style), style)
    y = normalize(g, g.conv(y, channels, kernel=3, bias=style.bias), style)
    return activate(g, _merge(g, y, _shortcut(g, x, channels, stride, style), style), style)


def bottleneck(g: Builder, x: str, channels: int, kernel: int, stride: int, style: Style) -> str:
    """The bottleneck of ResNet, of ResNeXt (Xie et al. 2017) where grouped; gives ``expansion`` times ``channels``."""
    y = activate(g, normalize(g, g.conv(x, channels, bias=style.bias), style), style)
    y = activate(g, normalize(g, convolve(g, y, channels, kernel, stride, style), style), style)
    channels *= style.expansion
    y = normalize(g, g.conv(y, channels, bias=style.bias), style)
    return activate(g, _merge(g, y, _shortcut(g, x, channels, stride, style), style), style)


def preact(g: Builder, x: str, channels: int, kernel: int, stride: int, style: Style) -> str:
    """The block of He et al. 2016 (*Identity Mappings in Deep Residual Networks*): norm and activation come first."""
    a = activate(g, normalize(g, x, style), style)
    plain_shortcut = stride == 1 and g.shape(x)[0] == channels
    shortcut = x if plain_shortcut else g.conv(a, channels, stride=stride, bias=style.bias, name="shortcut")
    y = convolve(g, a, channels, kernel, stride, style)
    y = g.conv(activate(g, normalize(g, y, style), style), channels, kernel=3, bias=style.bias)
    return _merge(g, y, shortcut, style)


def mobile(g: Builder, x: str, channels: int, kernel: int, stride: int, style: Style) -> str:
    """The inverted residual of MobileNetV2 (Sandler et al. 2018), of V3 (Howard et al. 2019) with a gate."""
    before = g.shape(x)[0]
    inside = before * style.expansion
    y = activate(g, normalize(g, g.conv(x, inside, bias=style.bias), style), style)
    y = g.conv(y, inside, kernel=kernel, stride=stride, groups=inside, bias=style.bias, name="depthwise")
    y = squeeze(g, activate(g, normalize(g, y, style), style), style)
    y = normalize(g, g.conv(y, channels, bias=style.bias), style)
    if stride > 1 or before != channels:
        return y
    return g.op("add", _scaled(g, y, style), x)


def convnext(g: Builder, x: str, channels: int, kernel: int, stride: int, style: Style) -> str:
    """The block of ConvNeXt (Liu et al. 2022); halves and widens by a norm and a 2x2 convolution before it."""
    if stride > 1 or g.shape(x)[0] != channels:
        with g.scope("down"):
            x = normalize(g, x, Style(norm="layer"))
            x = g.conv(x, channels, kernel=stride, stride=stride, padding=0, bias=True)
    y = g.conv(x, channels, kernel=kernel, groups=channels, bias=True, name="depthwise")
    y = g.layer_norm(g.op("permute", y, axes=(0, 2, 3, 1)))
    y = g.linear(activate(g, g.linear(y, style.expansion * channels), style), channels)
    y = branch_scale(g, y, style.scale, (channels,))
    return g.op("add", x, g.op("permute", y, axes=(0, 3, 1, 2)))


def dense(g: Builder, x: str, channels: int, kernel: int, stride: int, style: Style) -> str:
    """A layer of DenseNet (Huang et al. 2017): its ``channels`` new features; the caller concatenates."""
    x = activate(g, normalize(g, x, style), style)
    if style.expansion > 1:  # a bottleneck
        x = g.conv(x, style.expansion * channels, bias=style.bias)
        x = activate(g, normalize(g, x, style), style)
    return squeeze(g, convolve(g, x, channels, kernel, stride, style), style)


BLOCKS: dict[str, Block] = {
    "plain": plain,
    "residual": residual,
    "bottleneck": bottleneck,
    "preact": preact,
    "mobile": mobile,
    "convnext": convnext,
}
