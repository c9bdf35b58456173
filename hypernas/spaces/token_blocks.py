"""Blocks on tokens (positions, features): transformers and mixers, laid out as PyTorch modules of them trace."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypernas.graphs.builder import Builder
from hypernas.spaces.blocks import branch_scale

__all__ = ["TokenStyle", "add_class_token", "add_position", "attention_block", "mixer_block", "to_tokens"]


@dataclass(frozen=True)
class TokenStyle:
    """What the blocks of one network have in common.

    Attributes:
        heads: of the attention; the greatest common divisor with the features is taken.
        qkv: queries, keys and values by ``one`` linear layer or by ``three``.
        attention: ``fused``, one primitive, or ``explicit``: products and a softmax.
        ratio: features inside the multilayer perceptron in units of those outside.
        activation: a primitive.
        place: of layer norm: ``pre`` or ``post`` (Vaswani et al. 2017).
        scale: of branches: ``none`` or ``channel`` (Touvron et al. 2021, layer scale).
    """

    heads: int = 4
    qkv: str = "one"
    attention: str = "fused"
    ratio: int = 4
    activation: str = "gelu"
    place: str = "pre"
    scale: str = "none"


def to_tokens(g: Builder, x: str) -> str:
    """An image (features, height, width) as tokens (height * width, features)."""
    features, height, width = g.shape(x)
    return g.op("permute", g.op("reshape", x, shape=(-1, features, height * width)), axes=(0, 2, 1))


def add_class_token(g: Builder, x: str) -> str:
    token = g.parameter((1, 1, g.shape(x)[-1]), "bias", "class_token")
    return g.op("concat", g.op("expand", token, g.input, shape=(1, -1, -1), batch=0), x, axis=0)


def add_position(g: Builder, x: str) -> str:
    return g.op("add", x, g.parameter((1, *g.shape(x)), "bias", "position"))


def attention_block(g: Builder, x: str, style: TokenStyle) -> str:
    """Self-attention and a multilayer perceptron (Dosovitskiy et al. 2021)."""
    with g.scope("attention"):
        x = _attention(g, x, style) if style.place == "pre" else g.layer_norm(_attention(g, x, style))
    with g.scope("mlp"):
        return _feed_forward(g, x, style) if style.place == "pre" else g.layer_norm(_feed_forward(g, x, style))


def mixer_block(g: Builder, x: str, style: TokenStyle, token_ratio: float) -> str:
    """The block of MLP-Mixer (Tolstikhin et al. 2021); ``token_ratio`` is that of the perceptron across tokens."""
    n, features = g.shape(x)
    with g.scope("tokens"):
        y = g.op("permute", g.layer_norm(x), axes=(0, 2, 1))
        y = g.linear(g.op(style.activation, g.linear(y, max(1, int(token_ratio * n)))), n)
        x = g.op("add", x, branch_scale(g, g.op("permute", y, axes=(0, 2, 1)), style.scale, (features,)))
    with g.scope("channels"):
        return _feed_forward(g, x, style)


def _feed_forward(g: Builder, x: str, style: TokenStyle) -> str:
    features = g.shape(x)[-1]
    y = g.layer_norm(x) if style.place == "pre" else x
    y = g.linear(g.op(style.activation, g.linear(y, style.ratio * features)), features)
    return g.op("add", x, branch_scale(g, y, style.scale, (features,)))


def _attention(g: Builder, x: str, style: TokenStyle) -> str:
    n, features = g.shape(x)
    heads = math.gcd(style.heads, features)
    of_head = features // heads
    y = g.layer_norm(x) if style.place == "pre" else x
    if style.qkv == "one":
        joint = g.op("reshape", g.linear(y, 3 * features, name="qkv"), shape=(-1, n, 3, heads, of_head))
        joint = g.op("permute", joint, axes=(2, 0, 3, 1, 4))
        q, k, v = (g.op("select", joint, axis=0, index=i, name=what) for i, what in enumerate("qkv"))
    else:
        apart = [g.linear(y, features, name=what) for what in ("query", "key", "value")]
        apart = [g.op("reshape", part, shape=(-1, n, heads, of_head)) for part in apart]
        q, k, v = (g.op("permute", part, axes=(0, 2, 1, 3)) for part in apart)
    if style.attention == "fused":
        y = g.op("attention", q, k, v)
    else:
        scores = g.op("matmul", q, g.op("permute", k, axes=(0, 1, 3, 2)))
        scores = g.op("affine", scores, scale=of_head**-0.5)
        y = g.op("matmul", g.op("softmax", scores, axis=3), v)
    y = g.op("reshape", g.op("permute", y, axes=(0, 2, 1, 3)), shape=(-1, n, features))
    return g.op("add", x, branch_scale(g, g.linear(y, features, name="projection"), style.scale, (features,)))
