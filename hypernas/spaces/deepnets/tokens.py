"""The families of ``deepnets`` on tokens: transformers, mixers, and the attention blocks that end a hybrid."""

from __future__ import annotations

import math

from hypernas.graphs.builder import Builder
from hypernas.spaces.blocks import Style, activate
from hypernas.spaces.deepnets.common import channels_of, choose_activation, choose_width, side_of
from hypernas.spaces.space import Chooser, Scale
from hypernas.spaces.token_blocks import (
    TokenStyle,
    add_class_token,
    add_position,
    attention_block,
    mixer_block,
    to_tokens,
)

__all__ = ["DEEP", "DEPTHS", "build_mixer", "build_transformer", "end_with_attention"]

DEPTHS, DEEP = (2, 3, 4, 5, 6), (14, 16, 18)  # blocks of attention or mixing
MAX_SIDE = 8  # tokens of more positions across than this are too many for attention on a processor


def build_transformer(g: Builder, choose: Chooser, scale: Scale) -> str:
    return _transformer(g, choose, scale, _patches(g, choose, scale))


def build_mixer(g: Builder, choose: Chooser, scale: Scale) -> str:
    x = _patches(g, choose, scale)
    style = TokenStyle(
        ratio=choose("mlp_ratio", (2, 3, 4)),
        activation=choose_activation(choose, "gelu"),
        scale=choose("layer_scale", ("none", "channel")),
    )
    ratio = choose("mixer.token_ratio", (0.5, 1, 2))
    for k in range(choose("depth", DEPTHS + DEEP)):
        with g.scope(f"blocks.{k}"):
            x = mixer_block(g, x, style, ratio)
    with g.scope("head"):
        return g.linear(g.op("mean", g.layer_norm(x), axes=(1,)), scale.n_classes)


def _patches(g: Builder, choose: Chooser, scale: Scale) -> str:
    features = channels_of(scale, 4 * choose_width(choose))
    size = min(choose("patch", (2, 4)), side_of(g, g.input))
    with g.scope("stem"):
        x = g.input
        if choose("patch.stem", ("plain", "convolutions")) == "convolutions":  # Xiao et al. 2021
            x = activate(g, g.batch_norm(g.conv(x, max(1, features // 2), kernel=3)), Style())
        return to_tokens(g, g.conv(x, features, kernel=size, stride=size, padding=0, bias=True))


def end_with_attention(g: Builder, choose: Chooser, scale: Scale, x: str, features: int) -> str:
    """The attention blocks of a hybrid, on tokens of ``features``."""
    patch = math.ceil(side_of(g, x) / MAX_SIDE)
    with g.scope("tokens"):
        x = to_tokens(g, g.conv(x, features, kernel=patch, stride=patch, padding=0, bias=True))
    return _transformer(g, choose, scale, x)


def _transformer(g: Builder, choose: Chooser, scale: Scale, x: str) -> str:
    style = TokenStyle(
        heads=choose("heads", (1, 2, 4)),
        qkv=choose("qkv", ("one", "three")),
        attention=choose("attention", ("fused", "explicit")),
        ratio=choose("mlp_ratio", (2, 3, 4)),
        activation=_activation_of_tokens(choose),
        place=choose("norm_place", ("pre", "post")),
        scale=choose("layer_scale", ("none", "channel")),
    )
    read = choose("read_from", ("class_token", "mean"))
    with g.scope("embedding"):
        x = add_class_token(g, x) if read == "class_token" else x
        x = add_position(g, x) if choose("position", (True, False)) else x
    for k in range(choose("depth", DEPTHS + DEEP)):
        with g.scope(f"blocks.{k}"):
            x = attention_block(g, x, style)
    with g.scope("head"):
        x = g.layer_norm(x) if style.place == "pre" else x
        x = g.op("select", x, axis=1, index=0) if read == "class_token" else g.op("mean", x, axes=(1,))
        return g.linear(x, scale.n_classes)


def _activation_of_tokens(choose: Chooser) -> str:
    """Named apart from that of a hybrid's convolutions."""
    return str(choose("mlp.activation", ("gelu", "relu", "silu")))
