"""Small members of the hypernetwork family, and the architectures and measures that all of them are tested by."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

import torch
from architectures import chain, small_network

from hypernas.graphs.architecture import Architecture
from hypernas.graphs.builder import Builder
from hypernas.hypernet.config import GHNConfig
from hypernas.hypernet.ghn import GHN
from search_spaces.cifar_cells import CifarCells

SPACE = CifarCells()


def small(**changes: Any) -> GHNConfig:
    return GHNConfig(**{"dim": 32, "n_layers": 2, "n_bases": 16, **changes})


def moved(ghn: GHN, seed: int = 0) -> GHN:
    """Away from its initialisation, in place."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in ghn.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g), alpha=0.1)
    return ghn


@functools.cache
def networks() -> tuple[Architecture, ...]:
    return (small_network(), SPACE.sample(random.Random(0)), chain(3, 5), SPACE.sample(random.Random(1)))


def one_layer(shape: tuple[int, ...], make: Any) -> Architecture:
    g = Builder(shape)
    return g.finish(make(g))


def vector(g: Builder, op: str, shape: tuple[int, ...], role: str) -> str:
    return g.op(op, g.input, g.op("parameter", shape=shape, role=role, name="p"))


UNSEEN = {
    "width 48": chain(2, 48),
    "prime width": chain(2, 37),
    "256 channels": one_layer((256, 4, 4), lambda g: g.conv(g.input, 256, kernel=3)),
    "one channel": one_layer((1, 4, 4), lambda g: g.conv(g.input, 1, kernel=3, bias=True)),
    "kernel of 9x2": one_layer((3, 9, 9), lambda g: g.conv(g.input, 4, kernel=(9, 2), padding=0)),
    "1-D": one_layer((3, 16), lambda g: g.conv(g.input, 7, kernel=5)),
    "3-D": one_layer((3, 6, 5, 4), lambda g: g.conv(g.input, 7, kernel=3, groups=1)),
    "3-D depthwise": one_layer((4, 6, 5, 4), lambda g: g.conv(g.input, 4, kernel=3, groups=4)),
    "grouped": one_layer((12, 6, 6), lambda g: g.conv(g.input, 24, kernel=3, groups=4)),
    "two filters a channel": one_layer((4, 6, 6), lambda g: g.conv(g.input, 8, kernel=3, groups=4)),
    "wide linear": one_layer((1000,), lambda g: g.linear(g.input, 300)),
    "layer norm over two axes": one_layer(
        (4, 6, 5),
        lambda g: g.op(
            "layer_norm",
            g.input,
            g.op("parameter", shape=(6, 5), role="scale"),
            g.op("parameter", shape=(6, 5), role="shift"),
            n_axes=2,
        ),
    ),
    "shift of an image": one_layer((3, 8, 8), lambda g: vector(g, "add", (3, 8, 8), "shift")),
    "gain a channel": one_layer((3, 8, 8), lambda g: vector(g, "multiply", (3, 1, 1), "scale")),
    "weight with one axis": one_layer((5,), lambda g: vector(g, "multiply", (5,), "weight")),
    "no parameters": one_layer((3, 8, 8), lambda g: g.op("global_average_pool", g.input)),
}


def assert_fits(emitted: Any, architecture: Architecture) -> None:
    assert set(emitted) == {spec.name for spec in architecture.parameters}
    assert len(emitted) == len(architecture.parameters)
    for spec in architecture.parameters:
        assert tuple(emitted[spec.name].shape) == spec.shape
        assert emitted[spec.name].dtype == torch.float32
        assert torch.isfinite(emitted[spec.name]).all()


def difference(one: Any, other: Any, names: Sequence[str]) -> float:
    """The largest difference between weights, in units of their root mean square."""
    return max(((one[n] - other[n]).abs().max() / one[n].square().mean().sqrt()).item() for n in names)
