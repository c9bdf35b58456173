"""What a decoder is made of: a *head* for each kind of tensor, made by the factory that is registered for the decoder.

A head turns embeddings into tensors of any shape, not yet normalised. It is a module with::

    forward(z: (n, dim), shape, place: (n,) int64, shared) -> (n, *shape)

``shape`` is (o,) for vectors, (o, i) for matrices, (o, i, *kernel) for convolutions, with i = 1 for depthwise ones.
``place`` is the number of the layer in its network, from 0 to ``n_places - 1``; ``shared`` is a dictionary for what the
groups of one pass compute once. At the start its output has about unit mean square where rows of ``z`` have, which is
what makes the rules of ``hypernas.hypernet.normalization`` that normalise nothing later (hyperfan) exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypernas.hypernet.config import GHNConfig

__all__ = ["AXES", "HeadFactory", "Mixer", "Shared", "kind_of", "plain_shape"]

# which coordinates a kind of tensor has: ``o`` output channels, ``i`` input channels, ``k`` kernel positions
AXES = {"conv": "oik", "depthwise": "ok", "linear": "oi", "scale": "o", "shift": "o", "bias": "o"}
MAX_AXES = 5  # weights of products in more axes than a 3-D convolution has are emitted as matrices
GELU_SQUARE = 0.4252  # mean square of GELU of a standard normal value

Shared = dict[Any, Tensor]
HeadFactory = Callable[[GHNConfig, str], nn.Module]  # (configuration, axes) -> head


def kind_of(role: str, depthwise: bool, n_axes: int) -> str:
    if role != "weight":
        return "scale" if role == "slope" else role
    if depthwise:
        return "depthwise"
    return "conv" if 2 < n_axes <= MAX_AXES else "linear"


def plain_shape(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a head is asked for: what has several axes where a vector or a matrix has one is emitted flat."""
    if AXES[kind] == "o":
        return (math.prod(shape),)
    return (shape[0], math.prod(shape[1:])) if AXES[kind] == "oi" else shape


class Mixer(nn.Module):
    """The small network of every generator: (n, dim) -> (n, n_out).

    Args:
        calibrated: start with outputs of unit variance for inputs of unit variance (the weights of the last layer are
            drawn for it, as Chang et al. 2020 do); else as torch starts.
        spectral: divide both matrices by their largest singular value where it is above 1 (Miyato et al. 2018). They
            are small: it is computed exactly, so that no power iteration has a state.
    """

    def __init__(self, dim: int, n_out: int, *, calibrated: bool = True, spectral: bool = False) -> None:
        super().__init__()
        up, down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, n_out)
        self.layers = (up, down)
        self.add_module("0", up)  # the names of a sequence with an activation between: those of older checkpoints
        self.add_module("2", down)
        self.spectral = spectral
        if calibrated:
            nn.init.normal_(up.weight, std=1 / math.sqrt(dim))
            nn.init.zeros_(up.bias)
            nn.init.normal_(down.weight, std=1 / math.sqrt(GELU_SQUARE * 2 * dim))
            nn.init.zeros_(down.bias)

    def forward(self, z: Tensor) -> Tensor:
        up, down = (_bounded(layer.weight) if self.spectral else layer.weight for layer in self.layers)
        return F.linear(F.gelu(F.linear(z, up, self.layers[0].bias)), down, self.layers[1].bias)


def _bounded(matrix: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(matrix, ord=2)
    return matrix / norm.clamp(min=1.0)
