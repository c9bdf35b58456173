"""What ``deepnets`` lays out is what the tracer makes of modules: to the hypernetwork they are the same graph."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.tracing import trace
from hypernas.spaces.blocks import Style, bottleneck, branch_scale, convnext, dense, mobile, preact, residual
from hypernas.spaces.token_blocks import (
    TokenStyle,
    add_class_token,
    add_position,
    attention_block,
    mixer_block,
    to_tokens,
)

INPUT = (3, 16, 16)
D = 16  # channels or features


def as_seen(architecture: Architecture) -> tuple[Any, ...]:
    """Operations, what each reads, and the shapes of parameters with the operations that they serve."""
    flow = architecture.dataflow
    index = {node.name: i for i, node in enumerate(flow.operations)}
    sources = [[index[name] for name in names] for names in flow.sources]
    parameters = Counter(
        (spec.shape, tuple(index[name] for name in spec.consumers)) for spec in architecture.parameters
    )
    return [node.op for node in flow.operations], sources, parameters


class Basic(nn.Module):
    """A residual block with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, D, 3, 2, 1, bias=False), nn.BatchNorm2d(D)
        self.conv2, self.norm2 = nn.Conv2d(D, D, 3, 1, 1, bias=False), nn.BatchNorm2d(D)
        self.shortcut = nn.Sequential(nn.Conv2d(3, D, 1, 2, bias=False), nn.BatchNorm2d(D))
        self.squeeze = nn.Sequential(nn.Linear(D, D // 4), nn.ReLU(), nn.Linear(D // 4, D), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        y = y * self.squeeze(F.adaptive_avg_pool2d(y, 1).flatten(1)).view(-1, D, 1, 1)
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """Of ResNeXt, with layer norms over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(3, D, 1), nn.Conv2d(D, D, 3, padding=1, groups=4), nn.Conv2d(D, 2 * D, 1)]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(D), nn.LayerNorm(D), nn.LayerNorm(2 * D), nn.LayerNorm(2 * D)])
        self.shortcut = nn.Conv2d(3, 2 * D, 1)

    def norm(self, k: int, x: Tensor) -> Tensor:
        return self.norms[k](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(0, self.convs[0](x)))
        y = F.relu(self.norm(1, self.convs[1](y)))
        return F.relu(self.norm(2, self.convs[2](y)) + self.norm(3, self.shortcut(x)))


class Preact(nn.Module):
    """Without norms: the branch has a learnt size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=2, dilation=2), nn.Conv2d(3, 3, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * (0.25 * self.conv2(F.silu(self.conv1(F.silu(x)))))


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 12, 1, 1), (12, 12, 5, 12), (12, 3, 1, 1))
        self.convs = nn.ModuleList([nn.Conv2d(a, b, k, 1, k // 2, groups=g, bias=False) for a, b, k, g in sizes])
        self.norms = nn.ModuleList([nn.GroupNorm(3, b) for _, b, _, _ in sizes])
        self.squeeze = nn.Sequential(nn.Conv2d(12, 3, 1), nn.ReLU(), nn.Conv2d(3, 12, 1), nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.norms[0](self.convs[0](x)))
        y = F.hardswish(self.norms[1](self.convs[1](y)))
        y = y * self.squeeze(F.adaptive_avg_pool2d(y, 1))
        return x + self.norms[2](self.convs[2](y))  # type: ignore[no-any-return]


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(3, 3, 7, padding=3, groups=3), nn.LayerNorm(3)
        self.mlp = nn.Sequential(nn.Linear(3, 12), nn.GELU(), nn.Linear(12, 3))
        self.gamma = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.gamma * self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Heads of one linear layer and torch's kernel, or of three and its formula."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        if fused:
            self.qkv = nn.Linear(D, 3 * D)
        else:
            self.query, self.key, self.value = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.projection = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        if self.fused:
            q, k, v = self.qkv(x).reshape(b, n, 3, 4, D // 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            q, k, v = (f(x).view(b, n, 4, D // 4).transpose(1, 2) for f in (self.query, self.key, self.value))
            y = ((q @ k.transpose(-2, -1)) * (D // 4) ** -0.5).softmax(-1) @ v
        return self.projection(y.transpose(1, 2).reshape(b, n, D))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, D, 4, 4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, D)), nn.Parameter(torch.zeros(1, 17, D))
        self.norm1, self.norm2, self.attention = nn.LayerNorm(D), nn.LayerNorm(D), Attention(fused)
        self.mlp = nn.Sequential(nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, D))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = x + self.attention(self.norm1(x))
        return (x + self.mlp(self.norm2(x)))[:, 0]  # type: ignore[no-any-return]


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm1, self.norm2 = nn.Conv2d(3, D, 4, 4), nn.LayerNorm(D), nn.LayerNorm(D)
        self.tokens = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16))
        self.channels = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return (x + self.channels(self.norm2(x))).mean(1)  # type: ignore[no-any-return]


class Headed(nn.Module):
    """Ends in one linear layer, after a pooling of what is an image."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.head(y.mean((2, 3)) if y.dim() == 4 else y)  # type: ignore[no-any-return]


def transformer(g: Builder, style: TokenStyle) -> str:
    x = to_tokens(g, g.conv(g.input, D, kernel=4, stride=4, padding=0, bias=True))
    x = attention_block(g, add_position(g, add_class_token(g, x)), style)
    return g.op("select", x, axis=1, index=0)


def mixer(g: Builder) -> str:
    x = to_tokens(g, g.conv(g.input, D, kernel=4, stride=4, padding=0, bias=True))
    return g.op("mean", mixer_block(g, x, TokenStyle(), 0.5), axes=(1,))


def joined(g: Builder) -> str:
    return g.op("concat", g.input, dense(g, g.input, 4, 3, 1, Style(expansion=1)))


SMALL = Style(norm="none", activation="silu", bias=True, convolution="dilated", scale="scalar", damping=0.25)
GROUPED = Style(norm="layer", bias=True, convolution="grouped", groups=4, expansion=2)
GATED = Style(norm="group", norm_groups=3, activation="hardswish", gate="hardsigmoid", squeeze="conv")
PAIRS: dict[str, tuple[Any, Any]] = {
    "residual": (Basic, lambda g: residual(g, g.input, D, 3, 2, Style(gate="sigmoid", squeeze="linear"))),
    "bottleneck": (Bottleneck, lambda g: bottleneck(g, g.input, D, 3, 1, GROUPED)),
    "preact": (Preact, lambda g: preact(g, g.input, 3, 3, 1, SMALL)),
    "mobile": (Mobile, lambda g: mobile(g, g.input, 3, 5, 1, GATED)),
    "dense": (Dense, joined),
    "convnext": (ConvNext, lambda g: convnext(g, g.input, 3, 7, 1, Style(activation="gelu", scale="channel"))),
    "fused": (lambda: Transformer(True), lambda g: transformer(g, TokenStyle(ratio=2))),
    "explicit": (
        lambda: Transformer(False),
        lambda g: transformer(g, TokenStyle(ratio=2, qkv="three", attention="explicit")),
    ),
    "mixer": (Mixer, mixer),
}


@pytest.mark.parametrize("name", PAIRS)
def test_blocks_are_laid_out_as_the_tracer_lays_out_modules(name: str) -> None:
    make, build = PAIRS[name]
    module = Headed(make())
    module(torch.zeros(2, *INPUT))  # the lazy layer's size
    g = Builder(INPUT)
    y = build(g)
    pooled = g.op("global_average_pool", y) if len(g.shape(y)) == 3 else y
    assert as_seen(trace(module, INPUT).architecture) == as_seen(g.finish(g.linear(pooled, 10)))


def test_a_difference_would_be_seen() -> None:
    builds = []
    for kind in ("none", "scalar", "channel"):
        g = Builder(INPUT)
        x = branch_scale(g, g.conv(g.input, D), kind, (D, 1, 1))
        builds.append(as_seen(g.finish(g.linear(g.op("global_average_pool", x), 10))))
    assert builds[0] != builds[1] != builds[2]
