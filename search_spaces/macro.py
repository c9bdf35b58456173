"""``macro``: the 6,561 chains of NAS-Bench-Macro (Su et al. 2021), in their native strings.

A digit a layer: 0 identity, 1 and 2 the inverted residuals of MobileNetV2 (Sandler et al. 2018) with kernel 3 and
expansion 3, and with kernel 5 and expansion 6. The first layer of each stage has stride 2 and doubles the channels; an
identity there is a strided 1x1 convolution. Parameters and FLOPs at full size are those of the benchmark.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from hypernas.errors import SpaceError
from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.graphs.primitives import Shape
from hypernas.spaces.space import Choice, Chooser, Scale, SearchSpace

BLOCKS = {"1": (3, 3), "2": (5, 6)}  # (kernel, expansion)
OPERATIONS = ("0", *BLOCKS)
STAGES = (2, 3, 3)  # layers of each
N_LAYERS = sum(STAGES)
HEAD = 40  # the head's channels are as many times those of the stem: 1280 of 32


class Macro(SearchSpace):
    name: ClassVar[str] = "macro"
    data_sets: ClassVar[tuple[str, ...]] = ("cifar10", "fashion_mnist", "digits")

    def build(self, choose: Chooser, scale: Scale) -> Architecture:
        digits = iter([choose(_name(i), OPERATIONS) for i in range(N_LAYERS)])
        stages = [[next(digits) for _ in range(n)] for n in STAGES]
        # an identity of stride 1 is no layer: chains that differ by the place of one are one candidate
        stages = [[first, *(digit for digit in rest if digit != "0")] for first, *rest in stages]
        g = Builder(scale.input_shape)
        with g.scope("stem"):
            x = _activated(g, g.conv(g.input, scale.width, kernel=3))
        for i, stage in enumerate(stages):
            for k, digit in enumerate(stage):
                with g.scope(f"stages.{i}.layers.{k}"):
                    x = _add_layer(g, digit, x, scale.width * 2 ** (i + 1), stride=1 if k else 2)
        with g.scope("head"):
            x = _activated(g, g.conv(x, HEAD * scale.width))
            logits = g.linear(g.op("global_average_pool", x, name="pool"), scale.n_classes)
        return g.finish(logits, structure={"stages": ["".join(stage) for stage in stages]})

    def scoring_scale(self, input_shape: Shape, n_classes: int) -> Scale:
        channels, *size = input_shape
        side = min(16, *size)
        return Scale((channels, side, side), n_classes, width=8, n_cells=N_LAYERS, n_reductions=len(STAGES))

    def full_scale(self, input_shape: Shape, n_classes: int) -> Scale:
        return Scale(input_shape, n_classes, width=32, n_cells=N_LAYERS, n_reductions=len(STAGES))

    def parse(self, text: str) -> dict[str, Choice]:
        if not re.fullmatch(f"[{''.join(OPERATIONS)}]{{{N_LAYERS}}}", text):
            raise SpaceError(
                f"A macro chain is {N_LAYERS} digits, each one of {', '.join(OPERATIONS)}",
                value=text[:200],
                remedy="For example 11021221.",
            )
        return {_name(i): digit for i, digit in enumerate(text)}

    def native(self, decisions: Mapping[str, Choice]) -> str:
        return "".join(str(decisions[_name(i)]) for i in range(N_LAYERS))

    def enumerate(self) -> Iterator[dict[str, Choice]]:
        for digits in itertools.product(OPERATIONS, repeat=N_LAYERS):
            yield {_name(i): digit for i, digit in enumerate(digits)}


def _name(layer: int) -> str:
    return f"layer{layer}"


def _activated(g: Builder, x: str) -> str:
    return g.op("relu6", g.batch_norm(x))


def _add_layer(g: Builder, digit: str, x: str, channels: int, *, stride: int) -> str:
    if digit == "0":
        return g.batch_norm(g.conv(x, channels, stride=stride))
    kernel, expansion = BLOCKS[digit]
    hidden = expansion * g.shape(x)[0]
    y = _activated(g, g.conv(x, hidden, name="expand"))
    y = _activated(g, g.conv(y, hidden, kernel=kernel, stride=stride, groups=hidden, name="depthwise"))
    y = g.batch_norm(g.conv(y, channels, name="project"))
    return g.op("add", x, y, name="sum") if stride == 1 else y
