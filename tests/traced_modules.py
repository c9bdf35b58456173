"""Small modules, one feature each, that the tracer has to represent exactly. All take images of ``SHAPE``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

SHAPE = (4, 8, 8)
MODULES: dict[str, Callable[[], nn.Module]] = {}


class Function(nn.Module):
    """A forward given as a function of the module and its input, with parts as attributes."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def case(name: str, forward: Callable[[Any, Tensor], Any], **parts: Callable[[], Any]) -> None:
    assert name not in MODULES, name
    MODULES[name] = lambda: Function(forward, **{key: make() for key, make in parts.items()})


def parameter(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.randn(shape) * 0.5)


def buffer(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(shape) + 0.5


def conv(*args: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(*args, **options)


def linear(*args: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(*args, **options)


def tokens(x: Tensor) -> Tensor:
    """(batch, 4, 8, 8) -> (batch, 16, 16)."""
    return x.reshape(x.shape[0], 16, 16)


# --- convolution ---

case("conv, padding same", lambda m, x: m.conv(x), conv=conv(4, 6, 3, padding="same"))
case("conv, padding same, even kernel", lambda m, x: m.conv(x), conv=conv(4, 6, (4, 3), padding="same", dilation=2))
case("conv, padding valid", lambda m, x: m.conv(x), conv=conv(4, 6, 3, padding="valid", stride=(2, 1)))
case("conv, reflected padding", lambda m, x: m.conv(x), conv=conv(4, 6, 3, padding=1, padding_mode="reflect"))
case("conv, circular padding", lambda m, x: m.conv(x), conv=conv(4, 6, 3, padding=1, padding_mode="circular"))
case("conv, grouped and dilated", lambda m, x: m.conv(x), conv=conv(4, 8, 3, groups=2, dilation=2, padding=2))
case("conv1d", lambda m, x: m.conv(x.flatten(2)), conv=lambda: nn.Conv1d(4, 6, 5, stride=2, padding=2))
case("conv3d", lambda m, x: m.conv(x[:, None]), conv=lambda: nn.Conv3d(1, 3, (3, 3, 2), padding=1))
case(
    "conv transposed",
    lambda m, x: m.up(x),
    up=lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
)
case("conv with a fixed kernel", lambda m, x: F.conv2d(x, m.blur, groups=4), blur=buffer(4, 1, 3, 3))
case(
    "conv on frames folded into the batch",
    lambda m, x: m.conv(x.reshape(-1, 1, 8, 8)).reshape(x.shape[0], -1),
    conv=conv(1, 2, 3),
)


def standardised(m: Any, x: Tensor) -> Tensor:
    """Weight standardisation (Qiao et al. 2019), with a gain."""
    w = m.conv.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
    return F.conv2d(x, w * m.gain, m.conv.bias)


case("weight standardisation", standardised, conv=conv(4, 6, 3), gain=parameter(6, 1, 1, 1))
case("weight normalisation", lambda m, x: m.fc(x), fc=lambda: parametrizations.weight_norm(nn.Linear(8, 6)))
case("spectral normalisation", lambda m, x: m.fc(x), fc=lambda: parametrizations.spectral_norm(nn.Linear(8, 6)))

# --- linear and products ---

case("linear on images", lambda m, x: m.fc(x), fc=linear(8, 5, bias=False))
case("stacked linear", lambda m, x: m.b(F.relu(m.a(x.flatten(1)))), a=linear(256, 12), b=linear(12, 7))
case("x @ w.T", lambda m, x: x @ m.w.t(), w=parameter(5, 8))
case("x @ w", lambda m, x: x @ m.w, w=parameter(8, 5))
case("addmm", lambda m, x: torch.addmm(m.b, x.flatten(1), m.w), w=parameter(256, 5), b=parameter(5))
case(
    "addmm with a transposed weight",
    lambda m, x: torch.addmm(m.b, x.flatten(1), m.w.t()),
    w=parameter(5, 256),
    b=parameter(5),
)
case("baddbmm", lambda m, x: torch.baddbmm(tokens(x), tokens(x), tokens(x), alpha=0.5, beta=2))
case("einsum", lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.w), w=parameter(4, 3))
case("tensordot", lambda m, x: torch.tensordot(x, m.w, dims=1), w=parameter(8, 3))
case("bilinear pooling", lambda m, x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).flatten(1))

# --- normalisation ---

case("batch norm", lambda m, x: m.bn(x), bn=lambda: nn.BatchNorm2d(4))
case("batch norm, not affine", lambda m, x: m.bn(x), bn=lambda: nn.BatchNorm2d(4, affine=False))
case(
    "batch norm, statistics of the batch", lambda m, x: m.bn(x), bn=lambda: nn.BatchNorm2d(4, track_running_stats=False)
)
case("batch norm, cumulative average", lambda m, x: m.bn(x), bn=lambda: nn.BatchNorm2d(4, momentum=None))
case("batch norm of vectors", lambda m, x: m.bn(x.flatten(1)), bn=lambda: nn.BatchNorm1d(256))
case("batch norm of tokens in the batch", lambda m, x: m.bn(x.flatten(0, 1)).view_as(x), bn=lambda: nn.BatchNorm1d(8))
case(
    "frozen batch norm",
    lambda m, x: x * (m.w * m.v.rsqrt()).view(-1, 1, 1) + m.b.view(-1, 1, 1),
    w=buffer(4),
    v=buffer(4),
    b=buffer(4),
)
case("group norm", lambda m, x: m.norm(x), norm=lambda: nn.GroupNorm(2, 4))
case("instance norm", lambda m, x: m.norm(x), norm=lambda: nn.InstanceNorm2d(4))
case("instance norm, affine", lambda m, x: m.norm(x), norm=lambda: nn.InstanceNorm2d(4, affine=True))
case(
    "instance norm, running statistics",
    lambda m, x: m.norm(x),
    norm=lambda: nn.InstanceNorm2d(4, track_running_stats=True),
)
case("layer norm", lambda m, x: m.norm(x), norm=lambda: nn.LayerNorm((8, 8)))
case("layer norm, no bias", lambda m, x: m.norm(x), norm=lambda: nn.LayerNorm(8, bias=False))
case("layer norm, not affine", lambda m, x: m.norm(x), norm=lambda: nn.LayerNorm(8, elementwise_affine=False))
case(
    "layer norm of channels",
    lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    norm=lambda: nn.LayerNorm(4),
)
case("rms norm", lambda m, x: m.norm(x), norm=lambda: nn.RMSNorm(8))
case("rms norm by hand", lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.g, g=parameter(8))
case("local response norm", lambda m, x: m.norm(x), norm=lambda: nn.LocalResponseNorm(3))
case("vectors of length 1", lambda m, x: F.normalize(x, dim=1))

# --- activation functions ---

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    name: getattr(nn, name)
    for name in (
        *("ReLU", "ReLU6", "GELU", "SiLU", "Sigmoid", "Tanh", "Hardswish", "Hardsigmoid", "Mish", "SELU", "PReLU"),
        *("LeakyReLU", "ELU", "CELU", "Softplus", "LogSigmoid", "Softsign", "Tanhshrink", "RReLU", "Hardtanh"),
    )
}
ACTIVATIONS |= {
    "tanh GELU": lambda: nn.GELU(approximate="tanh"),
    "PReLU for each channel": lambda: nn.PReLU(4),
    "Softplus, scaled": lambda: nn.Softplus(beta=2.0),
    "Threshold at 0": lambda: nn.Threshold(0, 0),
    "GLU": lambda: nn.GLU(1),
    "Softmax": lambda: nn.Softmax(1),
    "LogSoftmax": lambda: nn.LogSoftmax(-1),
    "Softmin": lambda: nn.Softmin(1),
    "ReLU in place": lambda: nn.ReLU(inplace=True),
}
for _name, _make in ACTIVATIONS.items():
    case(_name, lambda m, x: m.act(2 * x), act=_make)

# --- arithmetic ---

case("numbers", lambda m, x: -(3 - (2 * x + 1 - 0.5) / 4) * 0.1)
case("a number over x", lambda m, x: 1 / (x.abs() + 2) + 2**x)
case("scaled sums", lambda m, x: torch.sub(torch.add(x, m.b, alpha=2), m.b.exp(), alpha=0.5), b=parameter(4, 1, 1))
case("powers and roots", lambda m, x: (x**2 + 1).sqrt() + x.square().add(1).pow(0.3) + x.abs().add(1).reciprocal())
case("functions", lambda m, x: x.exp() + x.abs().add(1).log() + x.sin() * x.cos() + x.erf() + (x * x).log1p())
case("clamps", lambda m, x: x.clamp(0, 6) + x.clamp(min=0.1) + x.clamp_max(0.2) + torch.clip(x, -1, 1))
case(
    "extremes of two",
    lambda m, x: torch.maximum(x, m.a) + torch.minimum(x, 0.5 * x) + torch.max(x, m.a),
    a=parameter(8),
)
case("addcmul and lerp", lambda m, x: torch.addcmul(x, x, m.a, value=0.5).lerp(x * x, 0.3), a=parameter(8))
case("a learned number", lambda m, x: x * m.scale.exp(), scale=parameter(1))
case("a buffer of one number", lambda m, x: x * m.scale / math.sqrt(2), scale=lambda: torch.tensor(0.7))
case(
    "generalised mean",
    lambda m, x: F.avg_pool2d(x.clamp(min=1e-3).pow(m.p), 8).pow(1 / m.p),
    p=lambda: nn.Parameter(torch.tensor([3.0])),
)
case(
    "masks", lambda m, x: x.masked_fill(m.keep < 1, -2.0).tril() + torch.where(m.keep > 1, x, x * 2), keep=buffer(8, 8)
)
case("a mask of infinities", lambda m, x: x.masked_fill(torch.eye(8, dtype=torch.bool), float("-inf")).softmax(-1))
case("in place", lambda m, x: F.relu_(m.conv(x).mul_(2).add_(1)).add_(x), conv=conv(4, 4, 1))

# --- reductions and pools ---

case("means", lambda m, x: x.mean((2, 3)) + x.mean(-1).mean(-1) + x.mean((2, 3), keepdim=True).flatten(1))
case("reductions", lambda m, x: x.sum(1) + x.amax(1) - x.amin(dim=(1,)) + x.max(1).values + x.min(1)[0])
case("variances", lambda m, x: x.var(1) + x.std((2, 3), keepdim=True)[:, 0] + torch.var_mean(x, 1, correction=0)[0])
case(
    "norms", lambda m, x: x.norm(dim=1) + torch.linalg.vector_norm(x, 1, 1) + x.norm(p=math.inf, dim=1) + x.logsumexp(1)
)
case("global pools", lambda m, x: F.adaptive_avg_pool2d(x, 1).flatten(1) + F.adaptive_max_pool2d(x, 1)[:, :, 0, 0])
case("pools", lambda m, x: F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 2))
case("max pool, ceil mode", lambda m, x: F.max_pool2d(x - 5, (3, 2), (2, 3), (0, 1), ceil_mode=True))
case("average pool, padding counted", lambda m, x: F.avg_pool2d(x + 1, 3, 1, 1))
case("average pool, padding not counted", lambda m, x: F.avg_pool2d(x + 1, 3, 2, 1, count_include_pad=False))
case("average pool, ceil mode", lambda m, x: F.avg_pool2d(x + 1, 3, 2, 1, ceil_mode=True))
case("average pool, ceil mode, padding not counted", lambda m, x: F.avg_pool2d(x + 1, 3, 2, 0, True, False))
case("average pool, larger than the image", lambda m, x: F.avg_pool2d(x, 20, ceil_mode=True))
case("average pool of the whole image", lambda m, x: F.avg_pool2d(x, x.shape[-2:]))
case("max pool, larger than the image", lambda m, x: F.max_pool2d(x, (3, 30), (2, 30), (1, 0), ceil_mode=True))
case("average pool, divisor", lambda m, x: F.avg_pool2d(x, 2, divisor_override=3))
case("adaptive pool that divides", lambda m, x: F.adaptive_avg_pool2d(x, (4, 2)))
case("adaptive pool that does not", lambda m, x: F.adaptive_avg_pool2d(x, (3, None)))
case("pools in one dimension", lambda m, x: F.max_pool1d(x.flatten(2), 4) + F.avg_pool1d(x.flatten(2), 4))
case("pools in three dimensions", lambda m, x: F.max_pool3d(x[:, None], 2) + F.avg_pool3d(x[:, None], 2))
case("interpolation, nearest", lambda m, x: F.interpolate(x, scale_factor=2) + F.interpolate(x, size=(16, 16)))
case("interpolation, bilinear", lambda m, x: F.interpolate(x, size=(5, 9), mode="bilinear"))
case(
    "interpolation, corners aligned",
    lambda m, x: F.interpolate(x, scale_factor=1.7, mode="bilinear", align_corners=True),
)
case("interpolation, bicubic", lambda m, x: F.interpolate(x, scale_factor=0.5, mode="bicubic"))

# --- moving data ---

case(
    "shapes", lambda m, x: x.flatten(2).unflatten(2, (8, -1)).movedim(1, -1).transpose(1, 2).mT.unsqueeze(1).squeeze(1)
)
case("sizes of the batch", lambda m, x: x.view(x.size(0) * 2, -1).reshape(len(x), 2, 2, 64).flatten(1))
case("windows counted back", lambda m, x: (w := x.reshape(-1, 4, 16)).reshape(int(w.shape[0] / (8 * 8 / 4 / 4)), 4, 64))
case("concat and stack", lambda m, x: torch.cat([x, x * 2, torch.stack([x[:, 0], x[:, 1]], 1)], 1))
case(
    "concat of the last axis",
    lambda m, x: torch.cat((x, m.more.expand(x.shape[0], 4, 8, 2)), -1),
    more=parameter(4, 8, 2),
)
case("split", lambda m, x: torch.mul(*x.split([1, 3], 1)))
case("pieces", lambda m, x: sum(x.chunk(2, 1)) + x.unbind(1)[3][:, None] + sum(x.tensor_split(2, 1)))
case("slices", lambda m, x: x[:, 1:, ::2, -5:-1] * x[:, 0:1, :1, 3, None] + x[:, 1:, 0:1, 2:6])
case("patches merged", lambda m, x: torch.cat([x[:, :, i::2, j::2] for i, j in itertools.product((0, 1), (0, 1))], 1))
case(
    "channel shuffle",
    lambda m, x: F.channel_shuffle(x, 2) + x.view(x.shape[0], 2, 2, 8, 8).transpose(1, 2).reshape(x.shape),
)
case("pixel shuffle", lambda m, x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2) * 2)
case("flip and roll", lambda m, x: x.flip(-1) + x.roll((2, -1), (2, 3)) + torch.roll(x, 1, 1))
case("padding", lambda m, x: F.pad(F.pad(F.pad(x, (1, 2)), (1, 0, 2, 1), "reflect"), (1,) * 4, "replicate", 0) + 1)
case("repeats", lambda m, x: x.repeat(1, 2, 1, 1) + x.repeat_interleave(2, 1) + x.tile((2, 1, 1)))
case("windows of a tensor", lambda m, x: x.unfold(2, 3, 2).unfold(3, 4, 4).flatten(1))
case("patches", lambda m, x: F.fold(F.unfold(x, 2, stride=2) * m.a, (8, 8), 2, stride=2), a=parameter(16, 1))
case("overlapping patches", lambda m, x: F.unfold(x, 3, padding=1))
case(
    "indices",
    lambda m, x: x[:, [2, 0, 1]] + x[:, m.ids] + x.index_select(1, m.ids),
    ids=lambda: torch.tensor([3, -1, 0]).abs(),
)
case(
    "indices of two axes",
    lambda m, x: x[:, :, m.i, m.j],
    i=lambda: torch.tensor([[0, 1], [2, -1]]),
    j=lambda: torch.tensor([3, 5]),
)
case("indices apart", lambda m, x: x[:, [[0], [1]], :, [2, 3]].permute(2, 0, 1, 3))
case("a mask that picks", lambda m, x: x[:, :, m.mask], mask=lambda: torch.eye(8) > 0)
case("writes into a part", lambda m, x: _written(x))
case("a mask that writes", lambda m, x: _masked(x))


def _written(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0] = x[:, 1]
    y[:, :, 2:4] += 1
    y[:, 2, 0, 0] = 5.0
    return y


def _masked(x: Tensor) -> Tensor:
    y = x.new_zeros(x.shape)
    y[:, 1:3] = x[:, 1:3]
    mask = torch.zeros(8, 8)
    mask[2:5, 1:] = 1
    mask[:, 0].fill_(2)
    return y.masked_fill(mask > 0, 3.0) + mask


# --- what depends on nothing but the shape ---

case("constants", lambda m, x: x * torch.linspace(0, 1, 8) + torch.arange(4)[:, None, None] / 4 + torch.ones(8, 1))
case("zeros of the batch's size", lambda m, x: torch.cat([x, torch.zeros(x.shape[0], 1, 8, 8), x.new_ones(x.shape)], 1))
case(
    "ids for each sample",
    lambda m, x: m.emb(torch.arange(8).expand(len(x), 8)) + x[:, 0],
    emb=lambda: nn.Embedding(9, 8),
)
case("a mask for each sample", lambda m, x: x.masked_fill(torch.ones(len(x), 1, 8, 8).triu().bool(), 0.5))
case(
    "masks repeated for the batch",
    lambda m, x: (x.flatten(0, 1) + m.mask.repeat(len(x), 1, 1)).view_as(x),
    mask=buffer(4, 8, 8),
)

# --- tokens ---

case(
    "class token", lambda m, x: torch.cat([m.cls.expand(len(x), -1, -1), tokens(x)], 1)[:, 0:2], cls=parameter(1, 1, 16)
)
case(
    "class token, repeated", lambda m, x: torch.cat([m.cls.repeat(len(x), 1, 1), tokens(x)], 1), cls=parameter(1, 1, 16)
)
case("position embedding", lambda m, x: tokens(x) + m.pos[:, :16], pos=parameter(1, 20, 16))
case(
    "position embedding, looked up",
    lambda m, x: tokens(x) + m.pos(m.ids),
    pos=lambda: nn.Embedding(16, 16),
    ids=lambda: torch.arange(16),
)
case(
    "position embedding, interpolated",
    lambda m, x: x + F.interpolate(m.pos, size=(8, 8), mode="bicubic", align_corners=False),
    pos=parameter(1, 4, 5, 5),
)
case("layer scale", lambda m, x: tokens(x) + m.gamma * m.fc(tokens(x)), gamma=parameter(16), fc=linear(16, 16))
case("attention", lambda m, x: F.scaled_dot_product_attention(x, x * 2, x + 1))
case("attention, causal and scaled", lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3))
case("attention, masked", lambda m, x: F.scaled_dot_product_attention(x, x, x, torch.ones(8, 8).tril().bool()))
case(
    "attention, grouped queries",
    lambda m, x: F.scaled_dot_product_attention(x, x[:, :2], x[:, 1:3], enable_gqa=True),
)


def relative_bias(m: Any, x: Tensor) -> Tensor:
    """A table of biases looked up by relative position (Liu et al. 2021, Swin)."""
    place = torch.arange(8)
    bias = m.table[(place[:, None] - place[None, :] + 7).flatten()].view(8, 8, 4).permute(2, 0, 1)
    return (x @ x.transpose(-1, -2) / 8 + bias).softmax(-1) @ x + F.scaled_dot_product_attention(x, x, x, bias)


def self_attention(m: Any, x: Tensor) -> Tensor:
    y, weights = m.mha(tokens(x), tokens(x), tokens(x))
    return y.mean(1) + weights.mean(1)


def shifted_windows(m: Any, x: Tensor) -> Tensor:
    """Windows, masked where a shift has brought strangers together, as written in Swin's original code."""
    b, c, h, w = x.shape
    mask = torch.zeros(1, h, w, 1)
    for i, rows in enumerate((slice(0, -4), slice(-4, -2), slice(-2, None))):
        for j, columns in enumerate((slice(0, -4), slice(-4, -2), slice(-2, None))):
            mask[:, rows, columns, :] = 3 * i + j
    cut = lambda y: y.view(-1, 2, 4, 2, 4, y.shape[-1]).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, y.shape[-1])  # noqa: E731
    apart = cut(mask).squeeze(-1)
    apart = apart[:, None] - apart[:, :, None]
    apart = apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)
    windows = cut(torch.roll(x.permute(0, 2, 3, 1), (-2, -2), (1, 2)))
    scores = windows @ windows.transpose(1, 2)
    scores = (scores.view(windows.shape[0] // 4, 4, 16, 16) + apart).view(-1, 16, 16).softmax(-1)
    out = m.fc(scores @ windows)
    b = int(out.shape[0] / (h * w / 4 / 4))
    return out.view(b, 2, 2, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)


case("relative position bias", relative_bias, table=parameter(15, 4))
case("shifted windows", shifted_windows, fc=linear(4, 4))
case("multi-head attention", self_attention, mha=lambda: nn.MultiheadAttention(16, 4, batch_first=True))
case(
    "multi-head attention, batch second",
    lambda m, x: m.mha(y := tokens(x).transpose(0, 1), y, y * 2)[0].transpose(0, 1),
    mha=lambda: nn.MultiheadAttention(16, 4),
)
case(
    "encoder layer",
    lambda m, x: m.layer(tokens(x)),
    layer=lambda: nn.TransformerEncoderLayer(16, 2, 24, batch_first=True),
)
case(
    "encoder, norm first",
    lambda m, x: m.encoder(tokens(x)).mean(1),
    encoder=lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 24, activation="gelu", batch_first=True, norm_first=True),
        2,
        enable_nested_tensor=False,
    ),
)
case(
    "learned queries",
    lambda m, x: m.mha(m.q.expand(len(x), 2, 16), tokens(x), tokens(x))[0],
    q=parameter(1, 2, 16),
    mha=lambda: nn.MultiheadAttention(16, 2, batch_first=True),
)

# --- whole modules ---


def stochastic_depth(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    if m.training:
        y = y * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.9))
    return x + F.dropout(m.drop(y), 0.5, m.training)


def _without_gradients(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        mean = x.mean((2, 3), keepdim=True)
    with torch.autocast("cpu", enabled=False), torch.enable_grad():
        return m.conv(x - mean)


def _stores(m: Any, x: Tensor) -> Tensor:
    m.last = m.conv(x)
    m.__dict__.setdefault("cache", {})[x.shape[0]] = m.last
    return m.last * 2


case("dropout and stochastic depth", stochastic_depth, conv=conv(4, 4, 1), drop=lambda: nn.Dropout2d(0.3))
case(
    "squeeze and excitation",
    lambda m, x: x * torch.sigmoid(m.fc(F.relu(x.mean((2, 3)))))[:, :, None, None],
    fc=linear(4, 4),
)
case("a module used twice", lambda m, x: m.act(m.conv(m.act(m.conv(x)))), conv=conv(4, 4, 3, padding=1), act=nn.ReLU)
case("without gradients inside", _without_gradients, conv=conv(4, 4, 1))
case("what it stores", _stores, conv=conv(4, 4, 1))
case("an unused parameter", lambda m, x: m.conv(x), conv=conv(4, 4, 1), unused=parameter(3))
case("logits", lambda m, x: SimpleNamespace(features=x, logits=m.conv(x)), conv=conv(4, 4, 1))
case("a dictionary with logits", lambda m, x: {"aux": x.sum(1), "logits": m.conv(x)}, conv=conv(4, 4, 1))
case("a tuple", lambda m, x: (m.conv(x), x), conv=conv(4, 4, 1))
case("a list after a number", lambda m, x: [3, m.conv(x)], conv=conv(4, 4, 1))


class Block(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(2 * channels, 2 * channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * channels)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, stride), nn.BatchNorm2d(2 * channels))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


class ResNet(nn.Module):
    """He et al. 2016, with two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3, padding=1)
        self.layer1 = nn.Sequential(Block(4, 1), Block(8, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.layer1(self.stem(x))), 1))  # type: ignore[no-any-return]


class Tied(nn.Module):
    """A decoder with the encoder's weight, and one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.again = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.b(self.a(x)))  # type: ignore[no-any-return]


MODULES |= {"residual network": ResNet, "tied parameters": Tied}
