"""The families of ``deepnets`` on images: cells, and stages of convolutional blocks."""

from __future__ import annotations

from typing import Any

from hypernas.graphs.builder import Builder
from hypernas.spaces.blocks import BLOCKS, Style, activate, dense, normalize
from hypernas.spaces.cells import OPERATIONS, Cell, add_cell, choose_cell, is_reduction
from hypernas.spaces.deepnets.common import channels_of, choose_activation, choose_width, side_of
from hypernas.spaces.deepnets.tokens import end_with_attention
from hypernas.spaces.space import Chooser, Scale

__all__ = ["build_cells", "build_convolutional"]

N_BLOCKS, MANY_BLOCKS = (1, 2, 3), (4, 5, 6)  # a stage
N_LAYERS, MANY_LAYERS = (2, 3, 4), (6, 8)  # a dense block
N_CELLS, MANY_CELLS = (2, 3), (5, 7)
N_NODES, MANY_NODES = (2, 3, 4), (5, 6, 7)  # a cell
N_EDGES, MANY_EDGES = (2,), (3,)  # a node
N_STAGES, HYBRID_STAGES = (1, 2, 3, 4), (1, 2)
MAX_SQUEEZED = 8  # blocks: with squeeze and excitation a block has up to 17 nodes, and a network at most 200
MAX_UNDAMPED = 4  # residual blocks without norm: each doubles the variance; in deeper networks branches are made small
FLAT_SIDE = 4  # larger images are pooled to this before they are flattened
POOLED = ("plain", "residual", "bottleneck", "preact", "mobile")  # families whose stages may begin with a pooling


# --- cells ----------------------------------------------------------------------------------------------------------


def build_cells(g: Builder, choose: Chooser, scale: Scale, cells: dict[str, Cell]) -> str:
    """Normal and reduction cells, as in NASNet (Zoph et al. 2018); only the kinds that occur are chosen."""
    n_cells = choose("cells", N_CELLS + MANY_CELLS)
    n_reductions = choose("cell.reductions", (0, 1, 2))
    n_nodes = choose("cell.nodes", N_NODES + MANY_NODES)
    n_edges = choose("cell.edges", N_EDGES + MANY_EDGES)
    kinds = ["reduction" if is_reduction(i, n_cells, n_reductions) else "normal" for i in range(n_cells)]
    for kind in sorted(set(kinds)):
        cells[kind] = choose_cell(choose, kind, tuple(OPERATIONS), n_nodes, n_edges)
    times = choose_width(choose)
    before = last = _stem(g, choose, channels_of(scale, times), Style())
    for i, kind in enumerate(kinds):
        times *= 2 if kind == "reduction" else 1
        reduce = kind == "reduction" and side_of(g, last) >= 4
        with g.scope(f"cells.{i}"):
            cell = add_cell(g, cells[kind], before, last, channels_of(scale, times), reduce=reduce)
        before, last = last, cell
    with g.scope("head"):
        return g.linear(g.op("global_average_pool", g.relu(last), name="pool"), scale.n_classes)


# --- stages of convolutional blocks ---------------------------------------------------------------------------------


def build_convolutional(g: Builder, choose: Chooser, scale: Scale, family: str) -> str:
    kind = choose("hybrid.block", ("residual", "bottleneck", "mobile")) if family == "hybrid" else family
    n_stages = choose("hybrid.stages", HYBRID_STAGES) if family == "hybrid" else choose("n_stages", N_STAGES)
    n_blocks = [_n_blocks(choose, kind, i) for i in range(n_stages)]
    style = _style(choose, kind, sum(n_blocks), may_squeeze=family != "hybrid" and sum(n_blocks) <= MAX_SQUEEZED)
    times = choose_width(choose)
    growth = choose("growth", (1.5, 2)) if kind != "dense" and n_stages > 1 else 1
    x = _stem(g, choose, channels_of(scale, times), style)
    pooled = kind in POOLED and n_stages > 1
    downsample = choose("downsample", ("strided", "max_pool", "average_pool")) if pooled else "strided"
    for i, n in enumerate(n_blocks):
        channels = channels_of(scale, times * growth**i)
        stride = 2 if i and side_of(g, x) >= 4 else 1
        if kind == "dense":
            x = _dense_stage(g, choose, scale, x, i, n, style)
            continue
        if stride == 2 and downsample != "strided":
            x, stride = _reduce(g, x, i, downsample, channels, style), 1
        kernel = _kernel(choose, kind, i)
        for k in range(n):
            with g.scope(f"stages.{i}.blocks.{k}"):
                x = BLOCKS[kind](g, x, channels, kernel, 1 if k else stride, style)
    if family == "hybrid":
        return end_with_attention(g, choose, scale, x, channels_of(scale, 4 * times))
    return _image_head(g, choose, scale, x, kind, style)


def _n_blocks(choose: Chooser, kind: str, stage: int) -> int:
    if kind == "dense":
        return int(choose("dense.layers", N_LAYERS + MANY_LAYERS))
    return int(choose(f"stages.{stage}.blocks", N_BLOCKS + MANY_BLOCKS))


def _kernel(choose: Chooser, kind: str, stage: int) -> int:
    if kind in ("mobile", "convnext"):
        return int(choose(f"stages.{stage}.depthwise_kernel", (3, 5, 7)))
    mixed = choose("kernels", ("three", "mixed")) == "mixed"
    return int(choose(f"stages.{stage}.kernel", (1, 3, 5, 7))) if mixed else 3


def _style(choose: Chooser, kind: str, n_blocks: int, may_squeeze: bool) -> Style:
    if kind == "convnext":
        return Style(
            norm="layer",
            activation=choose_activation(choose, "gelu"),
            bias=True,
            scale=choose("layer_scale", ("none", "channel")),
            expansion=choose("mlp_ratio", (2, 3, 4)),
        )
    chosen: dict[str, Any] = {"norm": choose("norm", ("batch", "other"))}
    if chosen["norm"] == "other":
        chosen["norm"] = choose("norm.other", ("group", "layer", "none"))
    if chosen["norm"] == "group":
        chosen["norm_groups"] = choose("norm.groups", (1, 2, 4, 8))
    chosen["activation"] = choose_activation(choose, "relu")
    chosen["bias"] = choose("bias", (False, True))
    if kind != "mobile" and choose("convolution", ("full", "special")) == "special":
        chosen["convolution"] = choose("convolution.special", ("grouped", "dilated", "separable"))
        if chosen["convolution"] == "grouped":
            chosen["groups"] = choose("convolution.groups", (2, 4, 8))
    if kind in ("residual", "bottleneck", "preact", "mobile", "plain") and may_squeeze:
        chosen |= _gate(choose)
    if kind in ("residual", "bottleneck", "preact", "mobile"):
        if chosen["norm"] == "none":  # a branch needs a size that can be learnt
            chosen["scale"] = choose("branch.gain", ("scalar", "channel"))
            chosen["damping"] = 0.25 if n_blocks > MAX_UNDAMPED else 1.0
        elif "gate" not in chosen and choose("branch", ("plain", "scaled")) == "scaled":
            chosen["scale"] = choose("branch.scale", ("fixed", "scalar", "channel"))
    if kind == "bottleneck":
        chosen["expansion"] = choose("bottleneck.expansion", (2, 4))
    if kind == "mobile":
        chosen["expansion"] = choose("mobile.expansion", (2, 4, 6))
    if kind == "dense":
        chosen["expansion"] = choose("dense.bottleneck", (1, 4))
    return Style(**chosen)


def _gate(choose: Chooser) -> dict[str, Any]:
    if not choose("squeeze", (False, True)):
        return {}
    return {
        "gate": choose("squeeze.gate", ("sigmoid", "hardsigmoid")),
        "squeeze": choose("squeeze.by", ("conv", "linear")),
    }


def _stem(g: Builder, choose: Chooser, channels: int, style: Style) -> str:
    kind = choose("stem", ("conv3", "conv3_stride", "conv7_pool", "two_conv3", "patch2", "patch4"))
    with g.scope("stem"):
        if kind.startswith("patch"):
            size = min(int(kind[-1]), side_of(g, g.input))
            return normalize(g, g.conv(g.input, channels, kernel=size, stride=size, padding=0, bias=True), style)
        kernel, stride = 7 if kind == "conv7_pool" else 3, 1 if kind == "conv3" else 2
        if kind == "two_conv3":
            x = g.conv(g.input, max(1, channels // 2), kernel=3, bias=style.bias)
            x = g.conv(activate(g, normalize(g, x, style), style), channels, kernel=3, stride=2, bias=style.bias)
        else:
            x = g.conv(g.input, channels, kernel=kernel, stride=stride, bias=style.bias)
        x = activate(g, normalize(g, x, style), style)
        return g.op("max_pool", x, kernel=3, stride=2, padding=1) if kind == "conv7_pool" else x


def _reduce(g: Builder, x: str, stage: int, pool: str, channels: int, style: Style) -> str:
    with g.scope(f"reductions.{stage}"):
        x = g.op(pool, x, kernel=2, stride=2)
        return normalize(g, g.conv(x, channels, bias=style.bias), style) if pool == "average_pool" else x


def _dense_stage(g: Builder, choose: Chooser, scale: Scale, x: str, stage: int, n_layers: int, style: Style) -> str:
    """A dense block, after a transition that halves channels and size (Huang et al. 2017)."""
    times = choose_width(choose)
    # at the least width both come to the same number of channels
    new = channels_of(scale, times * (choose("dense.growth", (0.25, 0.5)) if times > 1 else 0.5))
    if stage:
        with g.scope(f"reductions.{stage}"):
            x = activate(g, normalize(g, x, style), style)
            x = g.conv(x, g.shape(x)[0] // 2, bias=style.bias)
            if side_of(g, x) >= 4:
                x = g.op("average_pool", x, kernel=2, stride=2, name="pool")
    joined = choose("dense.concat", ("pairs", "all"))  # the same function, traced from two ways to write it
    features = [x]
    for k in range(n_layers):
        with g.scope(f"stages.{stage}.blocks.{k}"):
            y = dense(g, x, new, 3, 1, style)
            features = [*features, y] if joined == "all" else [x, y]
            x = g.op("concat", *features)
    return x


def _image_head(g: Builder, choose: Chooser, scale: Scale, x: str, kind: str, style: Style) -> str:
    with g.scope("head"):
        if kind in ("preact", "dense"):
            x = activate(g, normalize(g, x, style), style)
        elif style.norm != "none" and choose("head.norm", (False, True)):
            x = normalize(g, x, style)
        head = choose("head", ("linear", "other"))
        head = choose("head.other", ("hidden", "flatten", "conv")) if head == "other" else head
        if head == "flatten":
            if side_of(g, x) > FLAT_SIDE:
                x = g.op("adaptive_average_pool", x, size=FLAT_SIDE)
            channels, *sides = g.shape(x)
            x = g.op("reshape", x, shape=(-1, channels * sides[0] * sides[1]))
            return g.linear(x, scale.n_classes)
        if head == "conv":
            x = g.conv(x, 2 * g.shape(x)[0], bias=style.bias)
            x = activate(g, normalize(g, x, style), style)
        x = g.op("global_average_pool", x, name="pool")
        if head == "hidden":
            x = activate(g, g.linear(x, g.shape(x)[0]), style)
        return g.linear(x, scale.n_classes)
